"""Whether a fix should be trusted."""

import itertools
from collections.abc import Sequence

from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import Point, distance_m


def doubt(fix: Fix, receivers: Sequence[Point]) -> str:
    """Why the fix of receivers at (latitude, longitude) in degrees should not be trusted; empty when nothing says so.

    A sigma wider than the receivers stand apart says less than that somebody heard the emitter. Networks give such ones
    outside the area that they were trained for. Fixes of one receiver, of models that take one, are not judged.
    """
    if len(receivers) < 2:
        return ""
    apart_m = max(distance_m(a, b) for a, b in itertools.combinations(receivers, 2))
    sigma_m = max(fix.sigma_north_m, fix.sigma_east_m)
    if sigma_m <= apart_m:
        return ""
    return (
        f"sigma of {sigma_m / 1e3:.1f} km is wider than the receivers stand apart ({apart_m / 1e3:.1f} km): was "
        f"{fix.model} trained for this area?"
    )
