"""Every model has everything that is derived from its spec, and a spec that contradicts itself is refused."""

from dataclasses import replace

import numpy as np
import pytest

from rfserve.export import pbtxt, table
from rfserve.export.networks.catalog import network_class
from rfserve.export.spec import (
    GRAPHS,
    MODELS,
    Axis,
    Budget,
    ModelNotFound,
    SpecError,
    Step,
    TensorError,
    example,
    find,
)
from rfserve.export.spec.device import CEILING_MS, measured


@pytest.mark.parametrize("name", MODELS)
def test_example_fits_its_model_at_every_bound(name):
    spec = MODELS[name]
    for batch in (1, spec.max_batch_size):
        for bound in ("minimum", "maximum"):
            # The longest raw recordings at the greatest batch would only cost memory.
            sizes = {a.name: getattr(a, bound) if batch == 1 else a.minimum for a in spec.axes}
            inputs = example(spec, batch=batch, sizes=sizes)
            spec.check(inputs)
            assert all(np.isfinite(a).all() for a in inputs.values())


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_has_a_network_of_its_name(name):
    assert network_class(GRAPHS[name]).__module__.endswith(name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_configuration_says_what_the_spec_says(name, target):
    spec = MODELS[name]
    config = pbtxt.parse(pbtxt.config_text(spec, target))
    assert config.name == name
    assert config.max_batch_size == spec.max_batch_size
    assert [(t.name, tuple(t.dims)) for t in config.input] == [(t.name, t.dims) for t in spec.inputs]
    assert [(t.name, tuple(t.dims)) for t in config.output] == [(t.name, t.dims) for t in spec.outputs]
    if name in GRAPHS:
        assert config.backend == "onnxruntime"
        assert config.instance_group[0].kind == {"cpu": 2, "gpu": 1}[target]
        assert int(config.parameters["intra_op_thread_count"].string_value) >= 1
        assert config.HasField("dynamic_batching")
        assert ("enable_mem_pattern" in config.parameters) is (target == "cpu")
        for warmup in config.model_warmup:
            served = {t.name: list(t.shape(1, spec.served_sizes)[1:]) for t in spec.inputs}
            assert {k: list(v.dims) for k, v in warmup.inputs.items()} == served
    else:
        assert [s.model_name for s in config.ensemble_scheduling.step] == [s.model.name for s in spec.steps]


def test_config_that_says_something_else_is_noticed():
    text = pbtxt.config_text(MODELS["heimdall_net"], "cpu")
    assert not pbtxt.differs(text, text + "# a comment\n")
    assert pbtxt.differs(text.replace("max_batch_size: 32", "max_batch_size: 16"), text)
    assert pbtxt.differs("not protobuf {", text)


def test_table_names_every_model_and_tensor():
    document = f"head\n{table.BEGIN}\nOUTDATED\n{table.END}\ntail\n"
    written = table.between_markers(document)
    assert written.startswith("head\n")
    assert written.endswith("tail\n")
    assert "OUTDATED" not in written
    assert table.between_markers(written) == written
    for name, spec in MODELS.items():
        assert all(f"`{n}`" in written for n in (name, *(t.name for t in (*spec.inputs, *spec.outputs))))


def test_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ModelNotFound, match="heimdall_net_pro"):
        find("heimdal")


SPEC = GRAPHS["heimdall_net"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": ()}, "axes declared"),
        ({"outputs": SPEC.inputs}, "not distinct"),
        ({"budgets": {"cpu-2core": Budget(p50_ms=1, p95_ms=1, p99_ms=1, rate_hz=1)}}, "budgets for"),
        ({"max_batch_size": 0}, "max_batch_size 0"),
        ({"opset": 13}, "opset 13"),
        ({"placements": {}}, "placements for"),
    ],
)
def test_contradicting_spec_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        replace(SPEC, **change)


@pytest.mark.parametrize(
    ("cores", "instances", "threads"), [(1, 2, 1), (2, 2, 1), (4, 2, 2), (7, 2, 3), (8, 2, 4), (17, 4, 4), (64, 16, 4)]
)
def test_placement_for_other_machines_never_has_more_threads_than_cores(cores, instances, threads):
    placement = SPEC.placements["cpu"].on(cores)
    assert (placement.instances, placement.intra_op_threads) == (instances, threads)
    with pytest.raises(SpecError, match="0 cores"):
        placement.on(0)


@pytest.mark.parametrize(
    ("upper_ms", "budget_ms"), [(10.0, 15), (6.04, 9.1), (15.95, 24), (66.6, 100), (67.4, 110), (101.0, 160)]
)
def test_budget_is_what_was_measured_with_head_room_rounded_up(upper_ms, budget_ms):
    found = measured(p50_ms=upper_ms, p95_ms=upper_ms, p99_budget_ms=700, rate_hz=3)
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == (budget_ms, budget_ms, 700)


@pytest.mark.parametrize("name", MODELS)
def test_no_fix_may_take_longer_than_the_ceiling(name):
    assert all(budget.p99_ms <= CEILING_MS for budget in MODELS[name].budgets.values())


def test_axis_and_budget_and_ensemble_are_checked():
    with pytest.raises(SpecError, match="served 11"):
        Axis(name="receivers", minimum=1, maximum=10, served=11)
    with pytest.raises(SpecError, match="above 0"):
        Budget(p50_ms=0, p95_ms=1, p99_ms=1, rate_hz=1)
    with pytest.raises(SpecError, match="ascending"):
        Budget(p50_ms=2, p95_ms=1, p99_ms=3, rate_hz=1)
    with pytest.raises(SpecError, match="share below 1"):
        Budget(p50_ms=1, p95_ms=1, p99_ms=1, rate_hz=1, error_rate=1)
    locate = MODELS["locate"]
    step = locate.steps[1]
    with pytest.raises(SpecError, match="which nothing made before"):
        replace(locate, steps=(step,))
    with pytest.raises(SpecError, match="maps"):
        replace(locate, steps=(Step(model=step.model, input_map={}, output_map={}),))


def spoil_dtype(inputs):
    inputs["mask"] = inputs["mask"].astype(np.float32)


def spoil_rank(inputs):
    inputs["iq_data"] = inputs["iq_data"][0]


def spoil_receivers(inputs):
    inputs["features"] = inputs["features"][:, :3]


def spoil_missing(inputs):
    del inputs["mask"]


def spoil_length(inputs):
    inputs["iq_data"] = inputs["iq_data"][..., :100]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_dtype, r"mask: got dtype float32; expected BOOL \(batch, receivers\)"),
        (spoil_rank, "iq_data: got shape"),
        (spoil_receivers, "features has 3 receivers, iq_data has 10"),
        (spoil_missing, r"missing \['mask'\]"),
        (spoil_length, r"100 samples \(allowed: 256 to 16384\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(spoil, message):
    inputs = example(SPEC)
    spoil(inputs)
    with pytest.raises(TensorError, match=message):
        SPEC.check(inputs)


def test_batch_beyond_the_maximum_is_refused():
    with pytest.raises(TensorError, match="batch 33; expected 1 to 32"):
        SPEC.check(example(SPEC, batch=33))
