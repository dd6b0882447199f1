"""The noise of a receiver: thermal, by its noise figure, and that of its converter."""

import math

import numpy as np
from numpy.typing import NDArray

BOLTZMANN_J_K = 1.380649e-23
REFERENCE_K = 290.0
# -173.975 dBm in each hertz, which is quoted as -174.
DENSITY_DBM_HZ = 10 * math.log10(BOLTZMANN_J_K * REFERENCE_K * 1000)


def thermal_dbm(bandwidth_hz: float, noise_figure_db: float) -> float:
    """kT₀BF at the antenna in dBm, T₀ = 290 K: Friis, "Noise Figures of Radio Receivers", Proc. IRE 32 (1944)."""
    return DENSITY_DBM_HZ + 10 * math.log10(bandwidth_hz) + noise_figure_db


def quantisation_dbm(full_scale_dbm: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """The noise of rounding to `bits`: Δ²/12 in each of I and Q, Δ = 2^(1 - bits) of full scale.

    Bennett, "Spectra of Quantized Signals", Bell Syst. Tech. J. 27 (1948). It is white when signal and noise together
    move over a step or more.
    """
    return full_scale_dbm + 10 * math.log10(2 * (2.0 ** (1 - bits)) ** 2 / 12)


def sum_dbm(*levels_dbm: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The sum of powers that are given in dBm."""
    milliwatts = sum((10 ** (np.asarray(level, np.float64) / 10) for level in levels_dbm), np.float64(0))
    return np.asarray(10 * np.log10(milliwatts))


def gaussian(rng: np.random.Generator, samples: int) -> NDArray[np.complex128]:
    """White circular Gaussian noise of power 1, (samples,)."""
    pairs: NDArray[np.complex128] = rng.standard_normal((samples, 2)).view(np.complex128)[:, 0]
    return pairs / math.sqrt(2)
