"""What a receiver says it measured of a weak signal: its own noise, whose power is added to the signal's.

rss = 10 log10(10^(signal / 10) + 10^(floor / 10)), and the error of the meter. Whoever fits a path loss, or shadowing,
to strengths as they are takes the flat part of this curve for a signal that does not get weaker.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

# Standard deviation, in dB, of the power of noise alone from one event to the next.
METER_DB = 0.8
# Of a signal far below the floor nothing more is learned than that.
LEAST_SHARE = 0.05
NEPER_DB = 10 / math.log(10)

Numbers = NDArray[np.float64]


def total_db(signal_db: Tensor, floor_db: Tensor) -> Tensor:
    """What is measured of signals above a floor, which is -inf where there is none; shapes are broadcast."""
    return NEPER_DB * torch.logaddexp(signal_db / NEPER_DB, floor_db / NEPER_DB)


def expected_db(signal_db: Numbers, floor_db: Numbers | float) -> Numbers:
    """The same of NumPy's arrays."""
    found: Numbers = NEPER_DB * np.logaddexp(signal_db / NEPER_DB, floor_db / NEPER_DB)
    return found


def signal_db(rss_db: Tensor, floor_db: Tensor) -> Tensor:
    """The signal in what was measured: -inf where that is not above the floor."""
    noise = ((floor_db - rss_db) / NEPER_DB).exp().clamp(max=1.0)
    return rss_db + NEPER_DB * torch.log1p(-noise)


def linearised(rss_db: Numbers, floor_db: Numbers, near_db: Numbers) -> tuple[Numbers, Numbers]:
    """The signals that were measured, and their variances in dB², if they are near `near_db`; all (n,).

    The curve is taken for its tangent there, as in each step of an iterated extended Kalman filter (Bell and Cathey
    1993).
    """
    share = np.maximum(expit((near_db - floor_db) / NEPER_DB), LEAST_SHARE)
    return near_db + (rss_db - expected_db(near_db, floor_db)) / share, (METER_DB / share) ** 2
