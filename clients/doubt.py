"""Whether a fix should be trusted."""

import itertools
import math
from collections.abc import Sequence

from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import Point, distance_m


def doubt(fix: Fix, receivers: Sequence[Point]) -> str:
    """Why the fix of receivers at (latitude, longitude) in degrees should not be trusted; empty when nothing says so.

    A sigma wider than the receivers' own spread says no more than that somebody there heard the emitter. Networks give
    such ones outside the area that they were trained for. Fixes of one receiver, of models that take one, are not
    judged.
    """
    if len(receivers) < 2:
        return ""
    spread_m = _spread_m(receivers)
    sigma_m = max(fix.sigma_north_m, fix.sigma_east_m)
    if sigma_m <= spread_m:
        return ""
    return (
        f"sigma of {sigma_m / 1e3:.1f} km is wider than the receivers' own spread ({spread_m / 1e3:.1f} km): the "
        f"emitter may be outside or too weak, or the area not one that {fix.model} was trained for"
    )


def _spread_m(points: Sequence[Point]) -> float:
    """The root mean square distance from their middle; of two, half of what they stand apart."""
    # Their distances from each other say it as well, and need no middle, which near the date line is none of the means.
    squares = sum(distance_m(a, b) ** 2 for a, b in itertools.combinations(points, 2))
    return math.sqrt(squares) / len(points)
