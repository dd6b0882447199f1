"""Numbers that are checked when a scene is made."""

import math

from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.observation import HIGHEST_M, LOWEST_M, check_position


def require(name: str, value: float, unit: str, lowest: float, highest: float = math.inf) -> None:
    """`ClientError` unless the number is finite and from `lowest` to `highest`."""
    if not (math.isfinite(value) and lowest <= value <= highest):
        most = "" if highest == math.inf else f" to {highest:g}"
        raise ClientError(f"{name}: got {_with(value, unit)}; expected {lowest:g}{most or ' or more'}")


def require_above_0(name: str, value: float, unit: str) -> None:
    """`ClientError` unless the number is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ClientError(f"{name}: got {_with(value, unit)}; expected above 0")


def require_place(name: str, place: Position) -> None:
    """`PositionInvalid` or `ClientError` unless something can stand there."""
    check_position(name, place.latitude_deg, place.longitude_deg)
    require(f"{name}, altitude", place.altitude_m, "m", LOWEST_M, HIGHEST_M)


def _with(value: float, unit: str) -> str:
    return f"{value:g} {unit}".rstrip()
