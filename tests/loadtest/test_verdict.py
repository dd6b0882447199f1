"""The verdict on a run: what is ok, what is broken, and what proves nothing."""

import json
import math

import pytest

from rfserve.export.spec import MODELS
from rfserve.loadtest import verdict
from rfserve.loadtest.samples import Samples

MODEL = "heimdall_net"
BUDGET_MS = MODELS[MODEL].budgets["cpu"].p99_ms


def judged(latencies_ms, *, lags_ms=(1.0,), failures=(), **options):
    samples = Samples(
        latencies_s=[m / 1e3 for m in latencies_ms],
        lags_s=[m / 1e3 for m in lags_ms],
        failures=list(failures),
    )
    return verdict.judge(MODEL, samples, target="cpu", **options)


def test_a_percentile_is_a_latency_that_a_request_had():
    samples = Samples(latencies_s=[0.001] * 98 + [0.2, 0.3])
    # Interpolation would say 0.2 s and a fraction; half of the slowest two were slower than that.
    assert samples.latency_ms(99) == pytest.approx(300)
    assert samples.latency_ms(50) == pytest.approx(1)


def test_inside_the_budget_is_ok():
    found = judged([BUDGET_MS / 2] * 200)
    assert (found.outcome, found.sent, found.failed) == ("ok", 200, 0)
    assert verdict.exit_code([found]) == verdict.OK


def test_a_p99_over_the_budget_is_broken():
    found = judged([BUDGET_MS / 2] * 97 + [BUDGET_MS * 2] * 3)
    assert found.outcome == "broken"
    assert f"over the budget of {BUDGET_MS:g} ms" in found.reason
    assert verdict.exit_code([found]) == verdict.BROKEN


def test_a_failure_breaks_a_run_and_stays_out_of_the_latencies():
    found = judged([1.0] * 99, failures=["deadline of 10 s passed"])
    assert found.outcome == "broken"
    assert "deadline of 10 s passed" in found.reason
    assert (found.sent, found.failed) == (100, 1)
    assert found.p99_ms == pytest.approx(1.0)


def test_a_late_generator_makes_a_run_invalid_however_slow_the_server_looked():
    found = judged([BUDGET_MS * 5] * 100, lags_ms=[BUDGET_MS] * 100)
    assert found.outcome == "invalid"
    assert verdict.exit_code([found]) == verdict.INVALID


def test_nothing_sent_proves_nothing():
    found = judged([], lags_ms=[])
    assert found.outcome == "invalid"
    assert math.isnan(found.p99_ms)
    assert verdict.exit_code([]) == verdict.INVALID


def test_a_broken_budget_outweighs_an_invalid_run():
    assert verdict.exit_code([judged([], lags_ms=[]), judged([BUDGET_MS * 2] * 9)]) == verdict.BROKEN


def test_a_budget_can_be_replaced():
    assert judged([5.0] * 10, budget_ms=4).outcome == "broken"
    assert judged([5.0] * 10, budget_ms=6).outcome == "ok"


def test_the_report_is_json_with_the_raw_samples(tmp_path):
    samples = Samples()
    verdict.write_report([judged([], lags_ms=[])], {MODEL: samples}, tmp_path / "report.json")
    (entry,) = json.loads((tmp_path / "report.json").read_text())
    assert entry["p99_ms"] is None
    assert entry["latencies_s"] == []
