"""When requests are due: an open-loop schedule that does not wait for answers."""

from collections.abc import Iterator

import numpy as np

from rfserve.loadtest.errors import LoadTestError


def poisson_s(rate_hz: float, seed: int) -> Iterator[float]:
    """Due times in seconds from the start, without end: independent arrivals at `rate_hz` on average."""
    if not rate_hz > 0:
        raise LoadTestError(f"rate: got {rate_hz} requests a second; expected above 0")
    rng = np.random.default_rng(seed)
    due = 0.0
    while True:
        due += float(rng.exponential(1 / rate_hz))
        yield due
