"""One figure of two runs: whether it changed beyond noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rfserve.loadtest.noise import Difference, together

THROUGHPUT, ERRORS = "throughput_hz", "error_rate"
FASTER, SLOWER, BETTER, WORSE, SAME, UNDECIDED = "faster", "slower", "better", "worse", "same", "undecided"
BAD = frozenset([SLOWER, WORSE])
CHANGED = BAD | {FASTER, BETTER}
ERROR_MARGIN = 0.001
# Of the changes that are told, what share may be noise.
MOST_NOISE = 0.05


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of one model in one phase, before and after, with the 95 % interval of the change.

    `change` is after / before, of `error_rate` after - before. `chance` is how often noise alone makes one as large,
    NaN when that cannot be said. `outcome` is `same` when the interval lies within the margin. It is `faster` or
    `slower` (of errors: `better`, `worse`) when the interval lies on one side of no change, and of all changes that are
    told 5 % at most are noise. Otherwise it is `undecided`, and `reason` says why.
    """

    phase: str
    model: str
    figure: str
    before: float
    after: float
    change: float
    low: float
    high: float
    chance: float
    outcome: str
    reason: str = ""


def ratio(
    key: tuple[str, str],
    figure: str,
    values: list[float],
    found: Difference,
    margin: float,
    *,
    single: bool,
) -> Change:
    """A change that is a difference of logarithms, judged and then told as a ratio."""
    edge = math.log1p(margin)
    judged = judge(key, figure, values, found, (-edge, edge), single=single)
    return replace(judged, change=math.exp(judged.change), low=math.exp(judged.low), high=math.exp(judged.high))


def judge(
    key: tuple[str, str],
    figure: str,
    values: list[float],
    found: Difference,
    edges: tuple[float, float],
    *,
    single: bool,
) -> Change:
    """A difference between two values; one within the edges is none. `single`: one of the runs has one repetition."""
    more_is_worse = figure != THROUGHPUT
    good, bad = (BETTER, WORSE) if figure == ERRORS else (FASTER, SLOWER)
    outcome, reason, chance = UNDECIDED, "more repetitions or longer ones decide it", found.chance
    if single:
        reason, chance = "one repetition says nothing of how much the next one differs", math.nan
    elif edges[0] <= found.low and found.high <= edges[1]:
        outcome, reason = SAME, ""
    elif found.low > 0 or found.high < 0:
        outcome, reason = bad if (found.low > 0) == more_is_worse else good, ""
    told = unknown(key, figure, values, reason)
    return replace(told, change=found.change, low=found.low, high=found.high, chance=chance, outcome=outcome)


def unknown(key: tuple[str, str], figure: str, values: list[float], reason: str) -> Change:
    """A figure of which nothing can be said."""
    return Change(
        phase=key[0],
        model=key[1],
        figure=figure,
        before=values[0],
        after=values[1],
        change=math.nan,
        low=math.nan,
        high=math.nan,
        chance=math.nan,
        outcome=UNDECIDED,
        reason=reason,
    )


def beyond_chance(changes: Sequence[Change]) -> list[Change]:
    """Leave undecided what one of so many figures would show of itself: of 15, every other comparison has one."""
    weighed = [i for i, c in enumerate(changes) if math.isfinite(c.chance)]
    found = list(changes)
    for i, chance in zip(weighed, together([changes[i].chance for i in weighed]), strict=True):
        if changes[i].outcome in CHANGED and chance > MOST_NOISE:
            reason = f"one of {len(weighed)} figures looks like this by chance; repeat it"
            found[i] = replace(changes[i], outcome=UNDECIDED, reason=reason)
    return found
