"""How much a figure of a run would vary if the run were made again, estimated from the run itself.

A figure is computed over the samples of all repetitions. Its standard error is that of a bootstrap in two ways, and the
larger one counts:

- whole repetitions are drawn anew (the highest level only: Davison and Hinkley 1997, Bootstrap Methods and their
  Application, section 3.8), which holds what differs from one repetition to the next. It is multiplied by
  sqrt(R / (R - 1)): R drawn from R vary less than R from all there could be;
- blocks of consecutive samples are drawn within each repetition (Carlstein 1986, Annals of Statistics 14, 1171-1179),
  because requests that wait in one queue are not independent. This alone is left when there is one repetition.

A share of failures has its own: that of independent requests (Clopper and Pearson, Biometrika 26, 1934, put together as
in Newcombe 1998, Statistics in Medicine 17, 873-890), because a bootstrap of no failures knows of none.

Intervals are Student's, as few repetitions say little of how much they vary (Kalibera and Jones 2013, Rigorous
Benchmarking in Reasonable Time, ISMM, 63-74).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from rfserve.export.spec.tensor import Array
from rfserve.loadtest import interval
from rfserve.loadtest.errors import LoadTestError

DRAWS = 300
BLOCKS = 20
# Weights of so many samples are held at a time.
CHUNK = 4_000_000

# Samples (n) and how often each is drawn, int64 (draws, n), to figures (draws, …).
Figure = Callable[[Array, Array], Array]
# Of each repetition, how many requests failed of how many.
Shares = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, its standard error, and the degrees of freedom of that error. With one repetition it is within it."""

    value: float
    error: float
    freedom: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of a figure, with the ends of its 95 % interval.

    `chance` is how often noise alone makes one as large.
    """

    change: float
    low: float
    high: float
    chance: float


def percentiles(*wanted: float) -> Figure:
    """Percentiles that a sample really had (`higher`), as `numpy.percentile` gives them for samples all drawn once."""
    shares = np.asarray(wanted) / 100

    def figure(samples: Array, weights: Array) -> Array:
        order = np.argsort(samples, kind="stable")
        cumulated = np.cumsum(weights[:, order], axis=1, dtype=np.int32)
        ranks = np.ceil(shares * (cumulated[:, -1:] - 1)) + 1
        index = [drawn.searchsorted(rank) for drawn, rank in zip(cumulated, ranks, strict=True)]
        return np.asarray(samples[order][np.stack(index)])

    return figure


def mean(samples: Array, weights: Array) -> Array:
    """The mean, as one figure."""
    return np.asarray((weights @ samples / weights.sum(axis=1))[:, None])


def estimates(figure: Figure, repetitions: Sequence[Array], *, log: bool = False, seed: int = 0) -> list[Estimate]:
    """Figures over the samples of all repetitions, each repetition's in the order of time; `log`: their logarithms.

    `LoadTestError` when a repetition has no samples.
    """
    if not repetitions or not all(r.size for r in repetitions):
        raise LoadTestError(f"noise: got repetitions of {[r.size for r in repetitions]} samples; expected some in each")
    rng = np.random.default_rng(seed)
    samples = np.concatenate(repetitions)
    scale = np.log if log else np.asarray
    count = len(repetitions)
    values = scale(figure(samples, np.ones((1, samples.size), np.int64)))[0]
    within = _spread(figure, samples, scale, lambda draws: _draw_blocks(rng, repetitions, draws))
    if count == 1:
        freedom = max(1, min(BLOCKS, samples.size) - 1)
        return [Estimate(value=float(v), error=float(e), freedom=freedom) for v, e in zip(values, within, strict=True)]
    between = _spread(figure, samples, scale, lambda draws: _draw_repetitions(rng, repetitions, draws))
    errors = np.maximum(within, between * np.sqrt(count / (count - 1)))
    return [Estimate(value=float(v), error=float(e), freedom=count - 1) for v, e in zip(values, errors, strict=True)]


def difference(before: Estimate, after: Estimate) -> Difference:
    """`after` - `before` by Welch's t with Satterthwaite's degrees of freedom."""
    change = after.value - before.value
    squares = before.error**2, after.error**2
    if sum(squares) == 0:
        return Difference(change=change, low=change, high=change, chance=float(change == 0))
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / before.freedom + squares[1] ** 2 / after.freedom)
    error = sum(squares) ** 0.5
    reach = float(special.stdtrit(freedom, (1 + interval.CONFIDENCE) / 2)) * error
    chance = 2 * float(special.stdtr(freedom, -abs(change) / error))
    return Difference(change=change, low=change - reach, high=change + reach, chance=chance)


def difference_of_shares(before: Shares, after: Shares, scale: Callable[[float], float]) -> Difference:
    """The same for requests that failed, (failed, of how many) for each repetition.

    `scale` is applied to shares and is monotonic. `chance` is NaN when nothing failed: there is nothing to tell apart.
    """
    counts = [(sum(f for f, _ in side), sum(n for _, n in side)) for side in (before, after)]
    value = [scale(failed / count) for failed, count in counts]
    ends = [sorted(scale(end) for end in interval.of_shares(side)) for side in (before, after)]
    change = value[1] - value[0]
    down = math.hypot(value[1] - ends[1][0], ends[0][1] - value[0])
    up = math.hypot(ends[1][1] - value[1], value[0] - ends[0][0])
    chance = max(_chance_of_counts(*counts), _chance_of_shares(before, after))
    return Difference(change=change, low=change - down, high=change + up, chance=chance)


def _chance_of_counts(before: tuple[int, int], after: tuple[int, int]) -> float:
    """When each request fails or not for itself: Przyborowski and Wilenski, Biometrika 31 (1940), 313-323.

    It is for what is rare: of the failed and the answered, those that are fewer count.
    """
    failed = before[0], after[0]
    rare = min(failed, (before[1] - before[0], after[1] - after[0]), key=sum)
    total, part = sum(rare), after[1] / (before[1] + after[1])
    if not sum(failed):
        return math.nan
    tails = special.bdtr(rare[1], total, part), special.bdtrc(rare[1] - 1, total, part) if rare[1] else 1.0
    return min(1.0, 2 * float(min(tails)))


def _chance_of_shares(before: Shares, after: Shares) -> float:
    """When failures come in bursts, so that repetitions differ; 0 with one repetition, which says nothing of it."""
    sides = [[f / n for f, n in side if n] for side in (before, after)]
    if min(map(len, sides)) < 2:
        return 0.0
    pair = [
        Estimate(value=float(np.mean(s)), error=float(np.std(s, ddof=1)) / len(s) ** 0.5, freedom=len(s) - 1)
        for s in sides
    ]
    return difference(pair[0], pair[1]).chance


def together(chances: Sequence[float]) -> list[float]:
    """`chance` of each of several differences when all that stay below a limit are told: that share of them is noise.

    Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57, 289-300.
    """
    values = np.asarray(chances, float)
    order = np.argsort(values)[::-1]
    ranks = np.arange(values.size, 0, -1)
    found = np.empty(values.size)
    found[order] = np.minimum.accumulate(values[order] * values.size / ranks) if values.size else values
    return [float(v) for v in found]


def _spread(figure: Figure, samples: Array, scale: Callable[[Array], Array], draw: Callable[[int], Array]) -> Array:
    """Standard deviation of each figure over the draws."""
    at_a_time = max(1, CHUNK // samples.size)
    parts = [scale(figure(samples, draw(min(at_a_time, DRAWS - done)))) for done in range(0, DRAWS, at_a_time)]
    return np.asarray(np.concatenate(parts).std(axis=0, ddof=1))


def _draw_repetitions(rng: np.random.Generator, repetitions: Sequence[Array], draws: int) -> Array:
    weights = rng.multinomial(len(repetitions), [1 / len(repetitions)] * len(repetitions), draws)
    return np.repeat(weights.astype(np.int16), [r.size for r in repetitions], axis=1)


def _draw_blocks(rng: np.random.Generator, repetitions: Sequence[Array], draws: int) -> Array:
    parts = []
    for samples in repetitions:
        count = min(BLOCKS, samples.size)
        weights = rng.multinomial(count, [1 / count] * count, draws).astype(np.int16)
        parts.append(weights[:, np.arange(samples.size) * count // samples.size])
    return np.concatenate(parts, axis=1)
