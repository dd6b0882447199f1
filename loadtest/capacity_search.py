"""Which rate to measure next, to find the highest one that holds a budget: bracket by doubling, then bisect."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rfserve.loadtest.errors import LoadTestError

# What the measurement of a rate says. Only the first counts as holding the budget.
HOLDS, BROKEN, UNDECIDED, INVALID = "holds", "broken", "undecided", "invalid"
DIGITS = 3

Outcomes = Mapping[float, str]


@dataclass(frozen=True, kw_only=True)
class Search:
    """From `start_hz` up to `highest_hz` by doubling or, when that one does not hold, down to `lowest_hz` by halving.

    Then between the highest rate that holds and the lowest above it that does not, until they are no further apart than
    the share `resolution`. A rate at which the load generator was the bottleneck is an upper end as well: it says
    nothing of the server, and nothing above it is tried.
    """

    start_hz: float
    lowest_hz: float
    highest_hz: float
    resolution: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.lowest_hz <= self.start_hz <= self.highest_hz < math.inf:
            raise LoadTestError(
                f"rates: got {self.lowest_hz:g} to {self.highest_hz:g}/s from {self.start_hz:g}/s on; expected above "
                "0, ascending, and the first between the lowest and the highest"
            )
        # Rates are rounded, so that finer steps would never end.
        if not 0.01 <= self.resolution <= 1:
            raise LoadTestError(f"resolution: got {self.resolution:g}; expected 0.01 (one per cent) to 1")

    def next_hz(self, outcomes: Outcomes) -> float | None:
        """The rate to measure next, given what was measured; None when the answer is there."""
        held, above = bracket(outcomes)
        if held is None:
            return self._down(outcomes)
        if above is None:
            return None if held >= self.highest_hz else rounded(min(2 * held, self.highest_hz))
        if above <= held * (1 + self.resolution):
            return None
        middle = rounded(math.sqrt(held * above))
        return middle if held < middle < above else None

    def _down(self, outcomes: Outcomes) -> float | None:
        if not outcomes:
            return self.start_hz
        lowest = min(outcomes)
        if lowest <= self.lowest_hz:
            return None
        return max(self.lowest_hz, rounded(lowest / 2))

    def most_s(self, outcomes: Outcomes, cost_s: Callable[[float], float]) -> float:
        """How long it takes from here at most, whatever is measured, when a rate costs `cost_s`."""
        rate_hz = self.next_hz(outcomes)
        if rate_hz is None:
            return 0.0
        later = [self.most_s({**outcomes, rate_hz: outcome}, cost_s) for outcome in (HOLDS, BROKEN)]
        return cost_s(rate_hz) + max(later)


def bracket(outcomes: Outcomes) -> tuple[float | None, float | None]:
    """The highest rate that holds, and the lowest above it that does not; None where there is none."""
    held = max((rate for rate, outcome in outcomes.items() if outcome == HOLDS), default=None)
    above = [rate for rate, outcome in outcomes.items() if outcome != HOLDS and (held is None or rate > held)]
    return held, min(above, default=None)


def rounded(rate_hz: float) -> float:
    """To three digits, as rates are said."""
    return float(f"{rate_hz:.{DIGITS}g}")
