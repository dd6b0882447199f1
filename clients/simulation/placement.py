"""Where emitter and receivers of a scene stand, and the straight lines between them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfserve.clients import receivers
from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.geodesy import WGS84_A_M, WGS84_E2, metres_per_degree, unwrapped
from rfserve.clients.simulation.limits import require_place

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Station:
    """A receiver whose place is known. Its name becomes part of a file's."""

    name: str
    position: Position
    receiver_id: int | None = None
    full_scale_dbm: float | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ClientError(f"receiver: got the name {self.name!r}; expected up to 64 of letters, digits, _ and -")
        require_place(self.name, self.position)


def stations(path: Path) -> tuple[Station, ...]:
    """The stations of a receivers file; the errors of `receivers.read`, and `ClientError` for one without a place."""
    found = receivers.read(path)
    lost = [r.name for r in found.by_name.values() if r.position is None]
    if lost:
        raise ClientError(f"{found.file} gives no position to {', '.join(lost)}; expected one for each receiver")
    return tuple(
        Station(name=r.name, position=r.position, receiver_id=r.receiver_id, full_scale_dbm=r.full_scale_dbm)
        for r in found.by_name.values()
        if r.position is not None
    )


def middle(places: Sequence[Position]) -> Position:
    """The mean of places, at the altitude 0; also over the antimeridian."""
    first = places[0].longitude_deg
    longitude = math.fsum(unwrapped(p.longitude_deg, first) for p in places) / len(places)
    latitude = math.fsum(p.latitude_deg for p in places) / len(places)
    return Position(latitude_deg=latitude, longitude_deg=unwrapped(longitude, 0.0))


def drawn(rng: np.random.Generator, count: int, center: Position, radius_m: float) -> list[Position]:
    """Places that are uniform over the disc around `center`, at its altitude."""
    # One row for each place: more places leave the first ones where they were. The area of a disc grows with the square
    # of the radius.
    return [at(center, radius_m * math.sqrt(share), 2 * math.pi * turn) for share, turn in rng.uniform(size=(count, 2))]


def at(center: Position, away_m: float, direction: float) -> Position:
    """The place `away_m` from `center`, at its altitude, in a direction in radians from east to north."""
    north_m, east_m = metres_per_degree(center.latitude_deg)
    return Position(
        latitude_deg=center.latitude_deg + away_m * math.sin(direction) / north_m,
        longitude_deg=unwrapped(center.longitude_deg + away_m * math.cos(direction) / east_m, 0.0),
        altitude_m=center.altitude_m,
    )


def line_of_sight_m(a: Position, b: Position) -> float:
    """The straight line between two places, in metres, altitudes included."""
    return float(np.linalg.norm(_earth_centred(a) - _earth_centred(b)))


def _earth_centred(place: Position) -> NDArray[np.float64]:
    """Cartesian coordinates on WGS 84, (3,) in metres, by the prime vertical's radius a/sqrt(1 - e² sin²φ)."""
    latitude, longitude = math.radians(place.latitude_deg), math.radians(place.longitude_deg)
    vertical_m = WGS84_A_M / math.sqrt(1 - WGS84_E2 * math.sin(latitude) ** 2)
    level_m = (vertical_m + place.altitude_m) * math.cos(latitude)
    up_m = (vertical_m * (1 - WGS84_E2) + place.altitude_m) * math.sin(latitude)
    return np.array([level_m * math.cos(longitude), level_m * math.sin(longitude), up_m])
