"""The open-loop schedule: seeded, exponential, refused without a rate."""

from itertools import islice

import numpy as np
import pytest

from rfserve.loadtest.arrivals import poisson_s
from rfserve.loadtest.errors import LoadTestError


def test_gaps_are_exponential_at_the_rate():
    due = np.array(list(islice(poisson_s(20.0, seed=3), 20_000)))
    gaps = np.diff(due, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    # An exponential's standard deviation is its mean; a constant schedule's is 0.
    assert gaps.std() == pytest.approx(1 / 20, rel=0.05)


def test_the_seed_decides_the_schedule():
    first, again, other = (list(islice(poisson_s(5.0, seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan")])
def test_a_rate_that_sends_nothing_is_refused(rate_hz):
    with pytest.raises(LoadTestError, match="expected above 0"):
        next(poisson_s(rate_hz, seed=1))
