"""The open-loop schedule: seeded, exponential, made beforehand, refused without a rate."""

from itertools import islice

import numpy as np
import pytest

from rfserve.loadtest.arrivals import CONSTANT, POISSON, poisson_s, schedule_s
from rfserve.loadtest.errors import LoadTestError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_gaps_are_exponential_at_the_rate():
    due = np.array(list(islice(poisson_s(20.0, seed=3), 20_000)))
    gaps = np.diff(due, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    # An exponential's standard deviation is its mean; a constant schedule's is 0.
    assert gaps.std() == pytest.approx(1 / 20, rel=0.05)


def test_schedule_has_the_rate_to_the_request_and_exponential_gaps():
    due = schedule_s(POISSON, 20.0, 1000.0, rng(3))
    assert due.size == 20_000
    assert 0 <= due[0] <= due[-1] < 1000
    gaps = np.diff(due)
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(1 / 20, rel=0.05)


def test_constant_arrivals_have_one_gap():
    due = schedule_s(CONSTANT, 8.0, 10.0, rng(1))
    assert due.size == 80
    assert 0 <= due[0] <= due[-1] < 10
    np.testing.assert_allclose(np.diff(due), 1 / 8)


def test_the_seed_decides_the_schedule():
    first, again, other = (list(islice(poisson_s(5.0, seed), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    schedules = [schedule_s(POISSON, 5.0, 10.0, rng(seed)).tolist() for seed in (1, 1, 2)]
    assert schedules[0] == schedules[1] != schedules[2]


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_sends_nothing_is_refused(rate_hz):
    with pytest.raises(LoadTestError, match="expected above 0"):
        next(poisson_s(rate_hz, seed=1))
    with pytest.raises(LoadTestError, match="expected above 0"):
        schedule_s(POISSON, rate_hz, 1.0, rng())


def test_unknown_arrivals_are_refused():
    with pytest.raises(LoadTestError, match="poisson or constant"):
        schedule_s("bursts", 1.0, 1.0, rng())
