"""Log-distance path loss, as a line through measured strengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfserve.export.training.noise_floor import Numbers, linearised

if TYPE_CHECKING:
    from torch import Tensor

Logs = TypeVar("Logs", Numbers, "Tensor")

# Nearer than this no distance is believed: receivers and transmitters are known to some metres.
NEAREST_M = 10.0
# Steps to the signals beneath noise: half-way each, or they overshoot.
STEPS, DAMPING = 6, 0.5
LEAST_VARIANCE_DB2 = 0.1
# Places a millimetre apart are one, and through one distance there is no line.
LEAST_SPREAD = 1e-6


def log_distance(a_m: Numbers, b_m: Numbers) -> Numbers:
    """log10 of the metres between places (…, 2) north and east; of 10 m for nearer ones."""
    return np.asarray(np.log10(np.maximum(np.hypot(*(a_m - b_m).T), NEAREST_M)))


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What receivers measured: of transmitters at `truths_m` (n, 2), standing at `places_m` (n, 2), strengths (n,) and
    the floors of their noise (n,), in dB.
    """

    truths_m: Numbers
    places_m: Numbers
    rss_db: Numbers
    floor_db: Numbers

    @classmethod
    def of(cls, rows: Sequence[tuple[Numbers, Numbers, float, float]]) -> "Heard":
        """From a truth, a place, a strength and a floor for each."""
        truths, places, rss_db, floors = (np.array(column) for column in zip(*rows, strict=True))
        return cls(truths_m=truths, places_m=places, rss_db=rss_db, floor_db=floors)

    @classmethod
    def joined(cls, parts: Sequence["Heard"]) -> "Heard":
        """What all of them heard."""
        return cls(
            truths_m=np.concatenate([p.truths_m for p in parts]),
            places_m=np.concatenate([p.places_m for p in parts]),
            rss_db=np.concatenate([p.rss_db for p in parts]),
            floor_db=np.concatenate([p.floor_db for p in parts]),
        )

    @property
    def logs(self) -> Numbers:
        """`log_distance` of each (n,)."""
        return log_distance(self.truths_m, self.places_m)

    def rows(self, which: NDArray[np.int64]) -> "Heard":
        """Some of them."""
        return Heard(
            truths_m=self.truths_m[which],
            places_m=self.places_m[which],
            rss_db=self.rss_db[which],
            floor_db=self.floor_db[which],
        )


@dataclass(frozen=True, kw_only=True)
class PathLoss:
    """rss = level_db + slope_db log10(distance in m), with a standard deviation around it."""

    slope_db: float
    level_db: float
    sigma_db: float

    @classmethod
    def fitted(cls, logs: Numbers, rss_db: Numbers) -> "PathLoss":
        """The line of least squares through strengths (n,) over `log_distance` (n,); level when all are of one."""
        slope, level = np.polyfit(logs, rss_db, 1) if np.ptp(logs) > LEAST_SPREAD else (0.0, np.mean(rss_db))
        return cls(slope_db=float(slope), level_db=float(level), sigma_db=float(np.std(rss_db - level - slope * logs)))

    @classmethod
    def under_noise(
        cls, heard: Heard, *, towards: "PathLoss | None" = None, prior: tuple[float, float] = (0.0, 0.0)
    ) -> "PathLoss":
        """The line through the signals beneath which the receivers' noise is.

        `prior` says how many strengths the slope and the level of another line weigh that it is drawn to. From one
        distance alone, the slope is that of the other line, or 0.
        """
        logs = heard.logs
        if np.ptp(logs) <= LEAST_SPREAD:
            prior = (max(prior[0], 1.0), prior[1])
        columns = np.stack([logs, np.ones_like(logs)], 1)
        drawn = np.zeros(2) if towards is None else np.array([towards.slope_db, towards.level_db])
        found = cls.fitted(logs, heard.rss_db)
        signal_db = np.maximum(heard.rss_db, heard.floor_db)
        for _ in range(STEPS):
            signal_db = found.signals(heard, signal_db)
            seen, variance = linearised(heard.rss_db, heard.floor_db, signal_db)
            weights = found.sigma_db**2 / (variance + found.sigma_db**2)
            square = (columns * weights[:, None]).T @ columns + np.diag(prior)
            slope, level = np.linalg.solve(square, (columns * weights[:, None]).T @ seen + np.array(prior) * drawn)
            left = seen - level - slope * logs
            sigma = np.sqrt(max(np.average(left**2 - variance, weights=weights**2), LEAST_VARIANCE_DB2))
            found = cls(slope_db=float(slope), level_db=float(level), sigma_db=float(sigma))
        return found

    def signals(self, heard: Heard, near_db: Numbers | None = None) -> Numbers:
        """The likeliest signals (n,) in what was heard, sought from ones on that are near them."""
        found, mean = np.maximum(heard.rss_db, heard.floor_db) if near_db is None else near_db, self.at(heard.logs)
        for _ in range(STEPS):
            seen, variance = linearised(heard.rss_db, heard.floor_db, found)
            found = nearer(found, seen, variance, mean, self.sigma_db**2)
        return found

    def at(self, logs: Logs) -> Logs:
        """The mean strength in dB at distances, as `log_distance` gives them: a NumPy array or a tensor."""
        mean: Logs = self.level_db + self.slope_db * logs
        return mean


def nearer(near_db: Numbers, seen_db: Numbers, variance_db2: Numbers, mean_db: Numbers, fading_db2: float) -> Numbers:
    """Signals (n,) that are a damped step from `near_db` towards the likeliest.

    What is left of the mean is fading, as far as that varies more than the meter errs.
    """
    likely = mean_db + fading_db2 / (variance_db2 + fading_db2) * (seen_db - mean_db)
    return near_db + DAMPING * (likely - near_db)
