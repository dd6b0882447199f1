"""How strong a transmitter's signal is at one receiver that does not move, by the transmitter's place.

A Gaussian process over that place: log-distance path loss as its mean, and shadowing that is alike at places near each
other (Gudmundson 1991: correlation exp(-d / 20 to 160 m), beside a smoother part of 300 m). What is measured is the
signal and the receiver's noise: the process is fitted by Gauss-Newton steps (Laplace's approximation, Rasmussen and
Williams 2006, 3.4).
"""

from dataclasses import dataclass

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, Matern

from rfserve.export.training.noise_floor import Numbers, linearised
from rfserve.export.training.path_loss import Heard, PathLoss, log_distance, nearer

# Correlation lengths and variances of fading that are tried for each receiver; the likeliest is kept.
LENGTHS_M = (20.0, 40.0, 80.0, 160.0)
FADINGS_DB2 = (4.0, 9.0, 16.0, 25.0)
SMOOTH_M, ROUGH_SHARE = 300.0, 0.6
LEAST_VARIANCE_DB2 = 4.0
# Places that are enough to choose the lengths, and the most that are learned from.
CHOOSING, MOST = 700, 2500
# How much the slope of one receiver is held to that of all, in events.
SLOPE_PRIOR, LEVEL_PRIOR = 20.0, 0.1
# Steps to the signals of the places that the lengths are chosen by, and of all in the end.
FIRST, LAST = 6, 4
FIRST_LENGTH_M, FIRST_FADING_DB2 = 80.0, 9.0


@dataclass(frozen=True, kw_only=True)
class Shadowed:
    """One fixed receiver: where it stands in metres, its path loss, the process of what is left, and the fading that
    is another one at each moment.
    """

    place_m: Numbers
    loss: PathLoss
    left: GaussianProcessRegressor
    fading_db2: float

    @classmethod
    def learned(cls, heard: Heard, common: PathLoss, rng: np.random.Generator) -> "Shadowed":
        """From what one receiver measured, with a slope towards the common one."""
        loss = PathLoss.under_noise(heard, towards=common, prior=(SLOPE_PRIOR, LEVEL_PRIOR))
        order = rng.permutation(len(heard.rss_db))
        some, most = (heard.rows(np.sort(order[:count])) for count in (CHOOSING, MOST))
        near = loss.signals(some)
        _, near = _fitted(some, _Prior(loss=loss, length_m=FIRST_LENGTH_M, fading_db2=FIRST_FADING_DB2), near, FIRST)
        priors = [_Prior(loss=loss, length_m=m, fading_db2=db2) for m in LENGTHS_M for db2 in FADINGS_DB2]
        likely = [_fitted(some, prior, near, 1)[0].log_marginal_likelihood_value_ for prior in priors]
        best = priors[int(np.argmax(likely))]
        process, _ = _fitted(most, best, loss.signals(most), LAST)
        return cls(place_m=heard.places_m[0], loss=loss, left=process, fading_db2=best.fading_db2)

    def predict(self, places_m: Numbers) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation in dB of the signals of transmitters at (n, 2), without the receiver's noise."""
        mean, deviation = self.left.predict(places_m, return_std=True)
        return self.loss.at(log_distance(places_m, self.place_m)) + mean, np.sqrt(deviation**2 + self.fading_db2)


@dataclass(frozen=True, kw_only=True)
class _Prior:
    """What a process is before it has seen anything."""

    loss: PathLoss
    length_m: float
    fading_db2: float

    @property
    def kernel(self) -> Kernel:
        variance = max(self.loss.sigma_db**2 - self.fading_db2, LEAST_VARIANCE_DB2)
        rough = ConstantKernel(ROUGH_SHARE * variance) * Matern(self.length_m, nu=0.5)
        return rough + ConstantKernel((1 - ROUGH_SHARE) * variance) * RBF(SMOOTH_M)


def _fitted(heard: Heard, prior: _Prior, near_db: Numbers, steps: int) -> tuple[GaussianProcessRegressor, Numbers]:
    """The process after some steps from signals (n,) that are `near_db`, and the signals that it ends with."""
    mean = prior.loss.at(heard.logs)
    for _ in range(steps):
        signal, variance = linearised(heard.rss_db, heard.floor_db, near_db)
        process = GaussianProcessRegressor(prior.kernel, alpha=variance + prior.fading_db2, optimizer=None)
        process.fit(heard.truths_m, signal - mean)
        smooth = mean + process.predict(heard.truths_m)
        near_db = nearer(near_db, signal, variance, smooth, prior.fading_db2)
    return process, near_db
