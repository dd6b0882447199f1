"""What a path takes from a signal: log-distance path loss with log-normal shadowing."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.simulation.limits import require, require_above_0

SPEED_OF_LIGHT_M_S = 299_792_458.0

Floats = NDArray[np.float64]


def free_space_loss_db(distance_m: Floats | float, frequency_hz: float) -> Floats:
    """20 log10(4πd/λ), between isotropic antennas, never below 0.

    Friis, "A Note on a Simple Transmission Formula", Proc. IRE 34 (1946). It holds in the far field; nearer than
    λ/4π, where it would amplify, the loss stays 0.
    """
    wavelength_m = SPEED_OF_LIGHT_M_S / frequency_hz
    ratio = 4 * math.pi * np.asarray(distance_m, np.float64) / wavelength_m
    loss_db: Floats = 20 * np.log10(np.maximum(ratio, 1.0))
    return loss_db


@dataclass(frozen=True, kw_only=True)
class PathLoss:
    """The log-distance law: free space up to `reference_m`, 10 · `exponent` dB for each decade beyond.

    Rappaport, Wireless Communications (2nd ed., 2002), section 4.9.1 with table 4.2: exponent 2 in free space, 2.7 to
    3.5 in cities, 3 to 5 in shadowed cities, 4 to 6 through buildings. Around that mean a path has a normally
    distributed error in dB of standard deviation `shadowing_db` (section 4.9.2; 4 to 12 dB outdoors). Paths are
    independent of each other, however near two receivers are.
    """

    exponent: float = 3.0
    shadowing_db: float = 6.0
    reference_m: float = 100.0

    def __post_init__(self) -> None:
        require("path-loss exponent", self.exponent, "", 1.0, 10.0)
        require("shadowing", self.shadowing_db, "dB", 0.0, 40.0)
        require_above_0("reference distance", self.reference_m, "m")

    def mean_db(self, distance_m: Floats, frequency_hz: float) -> Floats:
        """The loss over a distance without shadowing, dB; any shape."""
        near = free_space_loss_db(np.minimum(distance_m, self.reference_m), frequency_hz)
        beyond = np.maximum(distance_m / self.reference_m, 1.0)
        loss_db: Floats = near + 10 * self.exponent * np.log10(beyond)
        return loss_db

    def shadowing_of(self, rng: np.random.Generator, paths: int) -> Floats:
        """What each path has on top of the mean, dB, (paths,)."""
        return self.shadowing_db * rng.standard_normal(paths)
