"""Degrees and metres near one place, and polygons at the antimeridian."""

import itertools
import math
from collections.abc import Sequence

Point = tuple[float, float]

# WGS 84: semi-major axis and first eccentricity squared.
WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694379990141e-3
MEAN_RADIUS_M = 6_371_008.8


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Metres in a degree of latitude and in one of longitude there, by the ellipsoid's radii of curvature.

    Meridian radius a(1 - e²)/(1 - e² sin²φ)^(3/2), radius of the parallel a cos φ/sqrt(1 - e² sin²φ).
    """
    latitude = math.radians(latitude_deg)
    bulge = 1 - WGS84_E2 * math.sin(latitude) ** 2
    meridian_m = WGS84_A_M * (1 - WGS84_E2) / bulge**1.5
    parallel_m = WGS84_A_M * math.cos(latitude) / math.sqrt(bulge)
    # A pole has no east: keep what divides by it finite.
    return math.radians(meridian_m), math.radians(max(parallel_m, 1.0))


def distance_m(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance between two (latitude, longitude) in degrees, by the haversine formula."""
    latitude = math.radians(b[0] - a[0]) / 2
    longitude = math.radians(b[1] - a[1]) / 2
    scale = math.cos(math.radians(a[0])) * math.cos(math.radians(b[0]))
    return 2 * MEAN_RADIUS_M * math.asin(math.sqrt(math.sin(latitude) ** 2 + scale * math.sin(longitude) ** 2))


def unwrapped(longitude_deg: float, near_deg: float) -> float:
    """The same meridian, within 180° of another longitude, so that a drawing does not go round the Earth."""
    return longitude_deg + 360 * round((near_deg - longitude_deg) / 360)


def cut_at_antimeridian(ring: Sequence[Point]) -> list[list[Point]]:
    """A closed convex ring of (longitude, latitude) whose longitudes may pass ±180°, as one or two rings that do not.

    RFC 7946, section 3.1.9. The direction of the ring stays.
    """
    longitudes = [p[0] for p in ring]
    if max(longitudes) > 180:
        edge = 180.0
    elif min(longitudes) < -180:
        edge = -180.0
    else:
        return [list(ring)]
    west, east = _half(ring, edge, keep_west=True), _half(ring, edge, keep_west=False)
    shift = -2 * edge
    if edge > 0:
        east = [(longitude + shift, latitude) for longitude, latitude in east]
    else:
        west = [(longitude + shift, latitude) for longitude, latitude in west]
    return [part for part in (west, east) if part]


def _half(ring: Sequence[Point], edge: float, *, keep_west: bool) -> list[Point]:
    """What of the ring lies on one side of a meridian (Sutherland and Hodgman's clipping), closed."""
    kept: list[Point] = []
    for start, end in itertools.pairwise(ring):
        start_in, end_in = ((p[0] <= edge) if keep_west else (p[0] >= edge) for p in (start, end))
        if start_in:
            kept.append(start)
        if start_in != end_in:
            part = (edge - start[0]) / (end[0] - start[0])
            kept.append((edge, start[1] + part * (end[1] - start[1])))
    return [*kept, kept[0]] if kept else []
