"""Degrees to pixels on a small map, and what goes around the edge of one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rfserve.clients.geodesy import Point, unwrapped

METRES_PER_DEGREE = 111_195.0  # of a great circle on the mean sphere
GRID_STEPS = (*(m * 10**-e for e in (5, 4, 3, 2, 1) for m in (1, 2, 5)), 1, 2, 5, 10, 20, 45)
NARROWEST_DEG = 1e-4


@dataclass(frozen=True, kw_only=True)
class Size:
    """A drawing in pixels, and how much of its edge stays free of marks."""

    width: int
    height: int
    margin: int


class Frame:
    """The map that shows all of some (longitude, latitude) in degrees, north up, the first of them being the nearest.

    A degree of longitude is as much shorter as it is on the ground in the middle of the map.
    """

    def __init__(self, points: Sequence[Point], size: Size) -> None:
        longitudes, latitudes = [unwrapped(p[0], points[0][0]) for p in points], [p[1] for p in points]
        self.size = size
        self.longitude = (min(longitudes) + max(longitudes)) / 2
        self.latitude = (min(latitudes) + max(latitudes)) / 2
        self.shrink = max(math.cos(math.radians(self.latitude)), 0.05)
        wide = max((max(longitudes) - min(longitudes)) * self.shrink, NARROWEST_DEG)
        high = max(max(latitudes) - min(latitudes), NARROWEST_DEG)
        self.pixels_per_degree = min((size.width - 2 * size.margin) / wide, (size.height - 2 * size.margin) / high)

    def xy(self, longitude: float, latitude: float) -> tuple[float, float]:
        """Pixel coordinates of a place."""
        return self.xy_unwrapped(unwrapped(longitude, self.longitude), latitude)

    def xy_unwrapped(self, longitude: float, latitude: float) -> tuple[float, float]:
        """Pixel coordinates when the longitude may pass ±180, as those of a ring do."""
        x = self.size.width / 2 + (longitude - self.longitude) * self.shrink * self.pixels_per_degree
        return x, self.size.height / 2 - (latitude - self.latitude) * self.pixels_per_degree

    def outline(self, ring: Sequence[Point], around: float) -> list[tuple[float, float]]:
        """Pixel coordinates of a ring around a longitude."""
        shift = unwrapped(around, self.longitude) - around
        return [self.xy_unwrapped(longitude + shift, latitude) for longitude, latitude in ring]

    def grid(self, columns: int) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
        """Where meridians cross (x, label) and parallels (y, label); `columns` meridians at most, or few more."""
        half_x = self.size.width / 2 / self.pixels_per_degree / self.shrink
        half_y = self.size.height / 2 / self.pixels_per_degree
        step = next((s for s in GRID_STEPS if 2 * half_x / s <= columns), GRID_STEPS[-1])
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        meridians = [
            (self.xy_unwrapped(i * step, 0)[0], f"{unwrapped(i * step, 0):.{digits}f}°")
            for i in _between(self.longitude - half_x, self.longitude + half_x, step)
        ]
        parallels = [
            (self.xy_unwrapped(0, i * step)[1], f"{i * step:.{digits}f}°")
            for i in _between(max(self.latitude - half_y, -90), min(self.latitude + half_y, 90), step)
        ]
        return meridians, parallels

    def scale(self, longest_px: float) -> tuple[float, str]:
        """Pixels and label of a scale bar of 1, 2 or 5 times a power of ten metres, in the middle of the map."""
        metres_per_pixel = METRES_PER_DEGREE / self.pixels_per_degree
        longest_m = longest_px * metres_per_pixel
        power = 10 ** math.floor(math.log10(longest_m))
        metres = max(m for m in (power, 2 * power, 5 * power) if m <= longest_m)
        return metres / metres_per_pixel, length_text(metres)


def length_text(metres: float) -> str:
    """A length as people say it."""
    if metres < 999.5:
        return f"{metres:.3g} m"
    kilometres = metres / 1000
    return f"{kilometres:,.0f} km" if kilometres >= 99.95 else f"{kilometres:.3g} km"


def _between(low: float, high: float, step: float) -> range:
    return range(math.ceil(low / step), math.floor(high / step) + 1)
