"""95 % confidence intervals of what several repetitions measured, and how many more would settle a question.

Student's t over the means of few repetitions is what Georges, Buytaert and Eeckhout, Statistically Rigorous Java
Performance Evaluation (OOPSLA 2007), section 3.2, prescribe; Clopper and Pearson, Biometrika 26 (1934), for a share.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

CONFIDENCE = 0.95
MOST_REPETITIONS = 100


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of none."""
    return sum(values) / len(values) if values else math.nan


def of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Low and high end for the mean of independent values; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan, math.nan
    middle = float(np.mean(values))
    half = _half(float(np.std(values, ddof=1)), len(values))
    return middle - half, middle + half


def of_share(hits: int, tries: int) -> tuple[float, float]:
    """Low and high end for the share that so many hits of independent tries show; 0 to 1 without tries."""
    if not tries:
        return 0.0, 1.0
    tail = (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(hits, tries - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, tries - hits, 1 - tail)) if hits < tries else 1.0
    return low, high


def of_shares(parts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The same for several repetitions' hits and tries together, and as wide as they differ: hits come in bursts."""
    low, high = of_share(sum(hits for hits, _ in parts), sum(tries for _, tries in parts))
    if all(tries for _, tries in parts):
        spread = of_mean([hits / tries for hits, tries in parts])
        if not math.isnan(spread[0]):
            low, high = min(low, max(0.0, spread[0])), max(high, min(1.0, spread[1]))
    return low, high


def more_for_mean(values: Sequence[float], budget: float) -> int | None:
    """How many more repetitions of the same spread would have an interval clear of the budget; None: none that help."""
    if len(values) < 2:
        return None
    gap, spread = abs(float(np.mean(values)) - budget), float(np.std(values, ddof=1))
    return _more(len(values), lambda count: _half(spread, count) < gap)


def more_for_share(hits: int, tries: int, budget: float, repetitions: int) -> int | None:
    """The same for a share, when as many of as many tries fail in those to come."""

    def is_clear(count: int) -> bool:
        low, high = of_share(round(hits * count / repetitions), round(tries * count / repetitions))
        return high <= budget or low > budget

    return _more(repetitions, is_clear) if tries and repetitions else None


def _half(spread: float, count: int) -> float:
    quantile = float(special.stdtrit(count - 1, 1 - (1 - CONFIDENCE) / 2))
    return quantile * spread / math.sqrt(count)


def _more(present: int, is_clear: Callable[[int], bool]) -> int | None:
    wanted = (count for count in range(present + 1, MOST_REPETITIONS + 1) if is_clear(count))
    return next((count - present for count in wanted), None)
