"""Degrees and metres on a plane that touches the Earth at one place, as a `Scaling` with a fixed origin has them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.export.scaling import METRES_PER_DEGREE


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Metres to the north and to the east of `origin_deg` (latitude, longitude); good to some ten kilometres."""

    origin_deg: tuple[float, float]

    @property
    def metres_per_degree(self) -> tuple[float, float]:
        """Of latitude and of longitude, at the origin, on the sphere."""
        return METRES_PER_DEGREE, METRES_PER_DEGREE * math.cos(math.radians(self.origin_deg[0]))

    def metres(self, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…, 2) latitude and longitude in degrees to metres north and east."""
        return np.asarray((degrees - np.asarray(self.origin_deg)) * np.asarray(self.metres_per_degree))

    def degrees(self, metres: NDArray[np.float64]) -> NDArray[np.float64]:
        """The way back."""
        return np.asarray(np.asarray(self.origin_deg) + metres / np.asarray(self.metres_per_degree))


def around(degrees: NDArray[np.float64]) -> Plane:
    """The plane at the mean of (n, 2) places."""
    latitude, longitude = degrees.mean(0)
    return Plane(origin_deg=(round(float(latitude), 6), round(float(longitude), 6)))
