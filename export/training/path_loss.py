"""Log-distance path loss, as a line through measured strengths."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Numbers = NDArray[np.float64]
Logs = TypeVar("Logs", Numbers, "Tensor")

# Nearer than this no distance is believed: receivers and transmitters are known to some metres.
NEAREST_M = 10.0


def log_distance(a_m: Numbers, b_m: Numbers) -> Numbers:
    """log10 of the metres between places (…, 2) north and east; of 10 m for nearer ones."""
    return np.asarray(np.log10(np.maximum(np.hypot(*(a_m - b_m).T), NEAREST_M)))


@dataclass(frozen=True, kw_only=True)
class PathLoss:
    """rss = level_db + slope_db log10(distance in m), with a standard deviation around it."""

    slope_db: float
    level_db: float
    sigma_db: float

    @classmethod
    def fitted(cls, logs: Numbers, rss_db: Numbers) -> "PathLoss":
        """The line of least squares through strengths (n,) over `log_distance` (n,)."""
        slope, level = np.polyfit(logs, rss_db, 1)
        return cls(slope_db=float(slope), level_db=float(level), sigma_db=float(np.std(rss_db - level - slope * logs)))

    def at(self, logs: Logs) -> Logs:
        """The mean strength in dB at distances, as `log_distance` gives them: a NumPy array or a tensor."""
        mean: Logs = self.level_db + self.slope_db * logs
        return mean
