"""When requests are due: an open-loop schedule that does not wait for answers."""

from collections.abc import Iterator

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest.errors import LoadTestError

POISSON, CONSTANT = "poisson", "constant"
ARRIVALS = (POISSON, CONSTANT)


def poisson_s(rate_hz: float, seed: int) -> Iterator[float]:
    """Due times in seconds from the start, without end: independent arrivals at `rate_hz` on average."""
    _check(rate_hz)
    rng = np.random.default_rng(seed)
    due = 0.0
    while True:
        due += float(rng.exponential(1 / rate_hz))
        yield due


def schedule_s(arrivals: str, rate_hz: float, duration_s: float, rng: np.random.Generator) -> Array:
    """All due times from 0 up to `duration_s`: float64 (requests,), ascending, exactly `rate_hz` of them a second.

    Given how many they are, the arrivals of a Poisson process are independent and uniform (Ross, Introduction to
    Probability Models, "Conditional distribution of the arrival times"). The number is fixed, so that every repetition
    carries the load that its plan says. `constant` arrivals begin at a random part of their gap.
    """
    _check(rate_hz)
    count = round(rate_hz * duration_s)
    if arrivals == POISSON:
        return np.sort(rng.uniform(0.0, duration_s, count))
    if arrivals == CONSTANT:
        return (np.arange(count) + rng.uniform()) * (duration_s / max(count, 1))
    raise LoadTestError(f"arrivals: got {arrivals!r}; expected {' or '.join(ARRIVALS)}")


def _check(rate_hz: float) -> None:
    if not 0 < rate_hz < float("inf"):
        raise LoadTestError(f"rate: got {rate_hz} requests a second; expected above 0")
