"""The verdict on a run: what passes, what fails, what proves nothing, and what would settle it."""

import json
import math
import re

import numpy as np
import pytest
from made_runs import MODEL, RATE_HZ, measurement_of, run_of
from scipy import stats

from rfserve.loadtest import interval, table, verdict
from rfserve.loadtest.arrivals import schedule_s
from rfserve.loadtest.plan import Plan
from rfserve.loadtest.samples import Samples
from rfserve.loadtest.taken import Taken
from rfserve.loadtest.validity import lateness_limit_ms, problems, samples_needed
from rfserve.loadtest.verdict import FAIL, INVALID, PASS, UNDECIDED, judge


def repetitions(scales=(1.0, 1.02, 0.98, 1.01, 0.99), count=300, **options):
    rng = np.random.default_rng(0)
    base = np.clip(rng.normal(10, 1, count), 5, 20)
    return [measurement_of(base * scale, repetition=i, **options) for i, scale in enumerate(scales)]


def judged(measurements, **options):
    (found,) = judge(run_of(measurements, **options))
    return found


def row(found, figure):
    return next(r for r in found.rows if r.figure == figure)


def test_interval_clear_of_every_budget_passes():
    found = judged(repetitions())
    assert (found.outcome, found.reasons) == (PASS, ())
    assert [r.figure for r in found.rows] == ["p50_ms", "p95_ms", "p99_ms", "error_rate", "throughput_hz"]
    assert {r.outcome for r in found.rows} == {PASS}
    assert verdict.exit_code([found]) == 0
    assert row(found, "p50_ms").low < 10 < row(found, "p50_ms").high < 11


def test_one_figure_over_its_budget_fails():
    found = judged(repetitions(), budgets={"p95_ms": 8.0, "p50_ms": 8.0})
    assert found.outcome == FAIL
    assert row(found, "p95_ms").outcome == FAIL
    assert row(found, "p99_ms").outcome == PASS
    assert any("p95_ms" in r and "is over the budget of 8" in r for r in found.reasons)
    assert verdict.exit_code([found]) == 1


def test_interval_around_a_budget_is_undecided_and_says_what_would_settle_it():
    spread = repetitions(scales=(1.0, 1.3, 0.7, 1.1, 0.9))
    middle = row(judged(spread), "p50_ms").value
    found = judged(spread, budgets={"p50_ms": middle * 1.06})
    assert found.outcome == UNDECIDED
    (reason,) = found.reasons
    more = interval.more_for_mean([m.latency_ms(50) for m in spread], middle * 1.06)
    assert f"{more} more could settle it" in reason
    assert verdict.exit_code([found]) == 3
    found = judged(spread, budgets={"p50_ms": middle * 1.0001})
    assert "a hundred would not settle it" in found.reasons[0]


def test_interval_of_a_latency_ends_at_zero():
    found = row(judged(repetitions(scales=(0.1, 0.1, 5.0))), "p50_ms")
    assert found.low == 0
    assert found.high > found.value


def test_one_repetition_is_undecided():
    found = judged(repetitions(scales=(1.0,), count=1200))
    assert found.outcome == UNDECIDED
    assert math.isnan(row(found, "p99_ms").low)
    assert "one repetition has no interval" in found.reasons[0]


def test_failures_are_judged_apart_from_latencies():
    found = judged(repetitions(failures={"deadline": 20, "unavailable": 1}))
    assert found.outcome == FAIL
    assert row(found, "p99_ms").outcome == PASS
    assert row(found, "error_rate").value == pytest.approx(21 / 321)
    assert row(found, "throughput_hz").outcome == FAIL
    assert any("100 deadline, 5 unavailable" in r for r in found.reasons)


def test_failures_in_one_burst_are_less_certain_than_spread_ones():
    burst = repetitions()
    burst[2] = measurement_of(burst[2].latency_s * 1e3, repetition=2, failures={"deadline": 60})
    assert judged(burst, figures=("error_rate",)).outcome == UNDECIDED
    assert judged(repetitions(failures={"deadline": 12}), figures=("error_rate",)).outcome == FAIL


def test_too_few_samples_for_a_percentile_are_invalid():
    found = judged(repetitions(count=150))
    assert found.outcome == INVALID
    assert row(found, "p99_ms").outcome == INVALID
    assert row(found, "p50_ms").outcome == PASS
    assert any("p99_ms needs 1000 answers in all and 100 in each repetition; there are 750" in r for r in found.reasons)
    # A server that answers nothing has failed, however few its answers are.
    away = [measurement_of([], repetition=i, failures={"unavailable": 50}) for i in range(3)]
    assert judged(away).outcome == FAIL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu_share": 0.91}, "91% of its core"),
        ({"late": 4}, r"20 of 1500 requests went out more than 5 ms late"),
        ({"unsent": 4}, r"49\.34 of 50 requests a second went out"),
    ],
)
def test_generator_that_was_the_bottleneck_makes_a_run_invalid_whatever_it_measured(options, message):
    for budgets in ({}, {"p50_ms": 1.0}):
        found = judged(repetitions(**options), budgets=budgets)
        assert found.outcome == INVALID
        assert any(re.search(message, r) for r in found.reasons)
        assert verdict.exit_code([found]) == 3
    assert judged(repetitions(cpu_share=0.89, late=3, unsent=3)).outcome == PASS


@pytest.mark.parametrize(("rate_hz", "duration_s"), [(0.5, 13), (2.7, 12), (1.3, 18.8)])
def test_schedule_that_has_fewer_requests_than_its_rate_keeps_its_throughput(rate_hz, duration_s):
    count = round(rate_hz * duration_s)
    assert count / duration_s < 0.99 * rate_hz
    full = [measurement_of([20] * count, rate_hz=rate_hz, duration_s=duration_s, repetition=i) for i in range(5)]
    found = row(judged(full), "throughput_hz")
    assert (found.value, found.low, found.outcome) == (rate_hz, rate_hz, PASS)


def test_throughput_counts_only_where_something_was_due():
    one = [measurement_of([20], rate_hz=0.1), measurement_of([], rate_hz=0.1, repetition=1)]
    one.append(measurement_of([20], rate_hz=0.1, repetition=2))
    assert row(judged(one), "throughput_hz").outcome == PASS


def taken(seed, answered=1.0, rate_hz=10.0, duration_s=60.0):
    """A Locust user's run of random arrivals, of which so many in each hundred are answered, within 20 ms."""
    due_s = schedule_s("poisson", rate_hz, duration_s, np.random.default_rng(seed))
    samples = Samples()
    for number, due in enumerate(due_s.tolist()):
        samples.begin(due, due, 0.01)
        if number % 100 < 100 * answered:
            samples.answered(due, due, due + 0.02)
        else:
            samples.failed(due, "deadline")
    return Taken(samples=samples, due_s=due_s, rate_hz=rate_hz, limit_ms=10.0, duration_s=duration_s, cpu_share=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_locust_user_whose_requests_are_all_answered_keeps_its_throughput(seed):
    found = judged(taken(seed).measurements(MODEL), budgets={"rate_hz": 10.0}, figures=("error_rate", "throughput_hz"))
    assert (found.outcome, row(found, "throughput_hz").value) == (PASS, 10)
    lossy = judged(taken(seed, answered=0.95).measurements(MODEL), budgets={"rate_hz": 10.0})
    assert row(lossy, "throughput_hz").outcome == FAIL
    assert row(lossy, "throughput_hz").value == pytest.approx(9.5, abs=0.1)


def test_what_a_locust_user_left_behind_survives_a_message():
    made = taken(1, answered=0.95)
    back = Taken.from_dict(json.loads(json.dumps(made.to_dict())))
    assert back.samples == made.samples
    np.testing.assert_array_equal(back.due_s, made.due_s)
    assert back.to_dict() == made.to_dict()


def test_nothing_sent_proves_nothing():
    assert problems([measurement_of([], unsent=5)])[0] == "nothing was sent"
    assert verdict.exit_code([]) == 3


def test_a_failure_outweighs_a_run_that_proves_nothing():
    good, bad, unproven = (
        judged(repetitions()),
        judged(repetitions(), budgets={"p50_ms": 1.0}),
        judged(repetitions((1,))),
    )
    assert [verdict.exit_code(v) for v in ([good], [good, bad, unproven], [good, unproven])] == [0, 1, 3]


def test_lower_rate_than_promised_is_said():
    found = judged(repetitions(), budgets={"rate_hz": 2 * RATE_HZ})
    assert found.outcome == PASS
    assert found.reasons == ("asked for 50/s; the budget promises 100/s",)


def test_plan_without_budgets_decides_nothing():
    run = run_of(repetitions())
    bare = {**run.plan, "device": "cpu-64core", "budgets": {}}
    (found,) = judge(type(run)(**{**vars(run), "plan": bare}))
    assert (found.outcome, found.rows) == (UNDECIDED, ())
    assert "no budget" in found.reasons[0]


def test_percentile_needs_ten_samples_beyond_it():
    assert [samples_needed(p) for p in (50, 95, 99)] == [(20, 2), (200, 20), (1000, 100)]


def test_lateness_limit_is_a_share_of_the_budget_from_5_ms_on():
    run = run_of([])
    assert lateness_limit_ms(Plan.from_dict(run.plan), "heimdall_net") == 10.0
    tight = run_of([], budgets={"p99_ms": 41.0})
    assert lateness_limit_ms(Plan.from_dict(tight.plan), "heimdall_net") == 5.0


def test_intervals_are_those_of_the_textbook():
    values = [1.0, 2.0, 4.0, 5.0]
    wanted = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval.of_mean(values) == pytest.approx(wanted)
    exact = stats.binomtest(3, 200).proportion_ci(method="exact")
    assert interval.of_share(3, 200) == pytest.approx((exact.low, exact.high))
    assert interval.of_share(0, 400) == pytest.approx((0, 1 - 0.025 ** (1 / 400)))
    assert interval.of_share(5, 5)[1] == 1.0
    assert interval.of_share(0, 0) == (0.0, 1.0)
    low, high = interval.of_share(0, 300)
    assert low == 0 < high
    assert interval.more_for_share(0, 300, 0.01, 3) == 1


def test_table_says_both_latencies_and_why():
    run = run_of(repetitions(), budgets={"p50_ms": 1.0})
    text = table.text(run, judge(run))
    for part in ("FAIL", "since due", "since sent", "is over the budget of 1", "not asked", "1500 sent, 0 late"):
        assert part in text
