"""Queue limits follow from budgets, and the configurations say what Triton needs to keep them."""

from dataclasses import replace
from inspect import signature

import pytest

from rfserve.clients.client import LocalizationClient
from rfserve.export import pbtxt
from rfserve.export.spec import ENSEMBLES, GRAPHS, SpecError, find
from rfserve.export.spec.device import Budget, promised
from rfserve.export.spec.model import TARGETS, Placement
from rfserve.export.spec.queueing import (
    CLIENT_CONCURRENCY,
    PATIENT_TIMEOUT_MS,
    Priority,
    QueueLimits,
    largest_formed_batch,
    queue_limits,
)

# Stations and dashboards that ask for one event at the same instant.
BURST = 8


@pytest.mark.parametrize("name", GRAPHS)
def test_queue_that_is_full_is_answered_within_the_budget(name):
    spec = GRAPHS[name]
    limits = queue_limits(spec, "cpu")[Priority.NORMAL]
    row_ms, instances = spec.row_costs_ms["cpu"], spec.placements["cpu"].instances
    assert limits.size * row_ms <= limits.timeout_ms or limits.size == CLIENT_CONCURRENCY
    assert limits.timeout_ms + instances * largest_formed_batch(spec, "cpu") * row_ms <= spec.budget("cpu").p99_ms


@pytest.mark.parametrize("name", GRAPHS)
def test_rated_load_comes_in_bursts_that_fit(name):
    """What arrives within a second, up to a burst, fits into the queue at once; the rated load uses half at most."""
    spec = GRAPHS[name]
    assert queue_limits(spec, "cpu")[Priority.NORMAL].size >= min(BURST, spec.budget("cpu").rate_hz)
    assert spec.budget("cpu").rate_hz * spec.row_costs_ms["cpu"] < 500


def test_what_a_client_keeps_in_flight_fits_into_any_queue():
    assert signature(LocalizationClient.locate_many).parameters["concurrency"].default == CLIENT_CONCURRENCY


@pytest.mark.parametrize("name", ENSEMBLES)
@pytest.mark.parametrize("target", TARGETS)
def test_ensemble_has_the_time_that_its_steps_may_take(name, target):
    """Triton hands the time-out on to every step whole, so that each may use all of its own."""
    spec = ENSEMBLES[name]
    steps_ms = 0.0
    for step in spec.steps:
        row_ms = step.model.row_costs_ms.get(target, 0.0)
        run_ms = step.model.placements[target].instances * largest_formed_batch(step.model, target) * row_ms
        steps_ms += queue_limits(step.model, target)[Priority.NORMAL].timeout_ms + run_ms
    assert steps_ms <= spec.budget(target).p99_ms


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("configuration", pbtxt.CONFIGURATIONS)
def test_configuration_holds_the_limits(name, configuration):
    spec, target = GRAPHS[name], pbtxt.CONFIGURATIONS[configuration].target
    config = pbtxt.parse(pbtxt.config_text(spec, configuration))
    batching = config.dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (3, Priority.NORMAL)
    limits = queue_limits(spec, target)
    policies = dict(batching.priority_queue_policy)
    assert policies[Priority.NORMAL] == batching.default_queue_policy
    for level, policy in policies.items():
        assert policy.timeout_action == 0, "REJECT"
        assert policy.allow_timeout_override
        # Triton looks at a request's own time-out only where there is a default one that is longer.
        assert policy.default_timeout_microseconds == round(1e3 * limits[Priority(level)].timeout_ms) > 0
        assert policy.max_queue_size == limits[Priority(level)].size
    cap = largest_formed_batch(spec, target)
    assert list(batching.preferred_batch_size) == ([cap] if cap < spec.max_batch_size else [])
    assert batching.max_queue_delay_microseconds == 0
    assert config.instance_group[0].count >= 2


def test_limits_follow_the_budget_and_the_cost_of_a_row():
    spec = replace(
        find("heimdall_net"),
        budgets={
            "cpu-2core": Budget(p50_ms=1, p95_ms=1, p99_ms=1000, rate_hz=10),
            **promised("gpu", p99_ms=40, rate_hz=10),
        },
        row_costs_ms={"cpu": 10},
    )
    assert queue_limits(spec, "cpu")[Priority.NORMAL] == QueueLimits(timeout_ms=500, size=50)
    assert largest_formed_batch(spec, "cpu") == 12
    assert queue_limits(spec, "gpu")[Priority.NORMAL] == QueueLimits(timeout_ms=20, size=128)
    assert largest_formed_batch(spec, "gpu") == 32
    assert queue_limits(spec, "cpu")[Priority.BULK].timeout_ms == PATIENT_TIMEOUT_MS
    few = replace(spec, worthwhile_rows={"cpu": 3, "gpu": 4})
    assert (largest_formed_batch(few, "cpu"), largest_formed_batch(few, "gpu")) == (3, 4)
    assert largest_formed_batch(replace(spec, worthwhile_rows={"cpu": 20}), "cpu") == 12
    slow = replace(spec, row_costs_ms={"cpu": 4000})
    assert largest_formed_batch(slow, "cpu") == 1
    assert queue_limits(slow, "cpu")[Priority.NORMAL].size == CLIENT_CONCURRENCY


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QueueLimits(timeout_ms=0, size=1), "above 0"),
        (lambda: QueueLimits(timeout_ms=1, size=0), "above 0"),
        (lambda: Placement(instances=1, intra_op_threads=2), "instances from 2"),
        (lambda: Placement(instances=2, intra_op_threads=1, queue_delay_us=500), "no delay"),
        (lambda: replace(find("heimdall_net"), row_costs_ms={"cpu": 0}), "ms above 0"),
        (lambda: replace(find("heimdall_net"), row_costs_ms={"tpu": 1}), "by target"),
        (lambda: replace(find("heimdall_net"), worthwhile_rows={"cpu": 0}), "1 to 32 by"),
        (lambda: replace(find("heimdall_net"), worthwhile_rows={"gpu": 33}), "1 to 32 by"),
        (lambda: replace(find("heimdall_net"), worthwhile_rows={"tpu": 1}), "by target"),
    ],
)
def test_figures_that_make_no_sense_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()
