"""Both HeimdallNets, as ONNX in ONNX Runtime: every size, canonical padding, and rows that stand alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfserve.export import onnx_file, parity
from rfserve.export.networks.iq_encoder import ENCODER_ORDERS, TimeConv
from rfserve.export.publication import Source, build_network
from rfserve.export.scaling import Scaling
from rfserve.export.spec import GRAPHS, example

MODELS = ("heimdall_net", "heimdall_net_pro")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[(m, o) for m in MODELS for o in ENCODER_ORDERS], ids="-".join)
def pair(request, tmp_path_factory):
    """(spec, eager module, ONNX Runtime session) with the identity scaling, so that results are network units."""
    model, order = request.param
    spec = GRAPHS[model]
    folder: Path = tmp_path_factory.mktemp(model)
    (folder / "identity.json").write_text("{}")
    module = build_network(spec, Source(encoder_order=order, scaling=folder / "identity.json")).module
    onnx_file.write(module, spec, folder / "model.onnx")
    onnx_file.check(folder / "model.onnx", spec)
    return spec, module, onnx_file.open_session(folder / "model.onnx")


def inputs_for(spec, *, batch=3, receivers=10, samples=512, seed=0, active=None):
    sizes = {"receivers": receivers, "samples": samples}
    inputs = example(spec, batch=batch, sizes=sizes, seed=seed, active=active)
    # Identity scaling: keep to the numbers that a network is trained on.
    rng = np.random.default_rng(seed)
    inputs["features"] = rng.normal(0, 1, inputs["features"].shape).astype(np.float32)
    inputs["receiver_positions"] = rng.normal(0, 1, inputs["receiver_positions"].shape).astype(np.float32)
    return inputs


def assert_same(got, expected, rows=slice(None)):
    for name in ("positions", "uncertainties"):
        np.testing.assert_allclose(got[name], expected[name][rows], rtol=0, atol=TOLERANCE, err_msg=name)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 4),
    receivers=st.integers(1, 10),
    samples=st.integers(256, 2048),
    seed=st.integers(0, 2**31),
)
def test_onnx_equals_eager_at_any_size(pair, batch, receivers, samples, seed):
    spec, module, session = pair
    inputs = inputs_for(spec, batch=batch, receivers=receivers, samples=samples, seed=seed)
    assert_same(onnx_file.run_session(session, inputs), onnx_file.run_eager(module, spec, inputs))


@pytest.mark.parametrize(("batch", "receivers", "samples"), [(1, 1, 256), (1, 10, 16384), (32, 10, 256), (32, 1, 1024)])
def test_onnx_equals_eager_at_the_bounds(pair, batch, receivers, samples):
    spec, module, session = pair
    inputs = inputs_for(spec, batch=batch, receivers=receivers, samples=samples)
    spec.check(inputs)
    assert_same(onnx_file.run_session(session, inputs), onnx_file.run_eager(module, spec, inputs))


def test_result_does_not_depend_on_order_padding_or_what_is_in_the_padding(pair):
    spec, _, session = pair
    rng = np.random.default_rng(5)
    padded = inputs_for(spec, batch=4, receivers=10, active=4)
    expected = onnx_file.run_session(session, padded)
    shuffled = {k: v.copy() for k, v in padded.items()}
    parity.disorder(spec, shuffled, rng)
    assert np.isnan(shuffled["iq_data"]).any()
    assert not shuffled["mask"][:, :4].all()
    assert_same(onnx_file.run_session(session, shuffled), expected)
    for receivers in (4, 7):
        fewer = {k: v[:, :receivers] for k, v in padded.items()}
        assert_same(onnx_file.run_session(session, fewer), expected)


def test_row_alone_equals_row_in_batch(pair):
    spec, _, session = pair
    inputs = inputs_for(spec, batch=7)
    together = onnx_file.run_session(session, inputs)
    for row in range(7):
        alone = onnx_file.run_session(session, {k: v[row : row + 1] for k, v in inputs.items()})
        assert_same(alone, together, slice(row, row + 1))


def spoil_nothing_active(inputs, row):
    inputs["mask"][row] = False


def spoil_iq(value):
    def spoil(inputs, row):
        inputs["iq_data"][row, 0, 1, 7] = value

    return spoil


def spoil_id(value):
    def spoil(inputs, row):
        inputs["receiver_ids"][row, 0] = value

    return spoil


def spoil_position(inputs, row):
    inputs["receiver_positions"][row, 0, 2] = np.nan


def spoil_feature(inputs, row):
    inputs["features"][row, 0, 0] = -np.inf


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing_active,
        spoil_iq(np.nan),
        spoil_iq(np.inf),
        spoil_iq(-np.inf),
        spoil_id(10),
        spoil_id(-1),
        spoil_id(2**62),
        spoil_id(-(2**63)),
        spoil_position,
        spoil_feature,
    ],
)
@pytest.mark.parametrize("row", [0, 2])
def test_bad_row_is_nan_and_the_others_are_unchanged(pair, spoil, row):
    spec, module, session = pair
    inputs = inputs_for(spec, batch=4, active=5)
    expected = onnx_file.run_session(session, inputs)
    spoil(inputs, row)
    others = [i for i in range(4) if i != row]
    for got in (onnx_file.run_session(session, inputs), onnx_file.run_eager(module, spec, inputs)):
        for name in ("positions", "uncertainties"):
            assert np.isnan(got[name][row]).all()
            np.testing.assert_allclose(got[name][others], expected[name][others], rtol=0, atol=TOLERANCE)


def test_every_row_bad_is_answered_with_nan(pair):
    spec, _, session = pair
    inputs = inputs_for(spec, batch=2)
    inputs["mask"][:] = False
    assert np.isnan(onnx_file.run_session(session, inputs)["positions"]).all()


def test_two_dimensional_form_of_the_convolutions_changes_nothing(pair, monkeypatch):
    spec, module, _ = pair
    inputs = inputs_for(spec, batch=2)
    expected = onnx_file.run_eager(module, spec, inputs)
    monkeypatch.setattr(TimeConv, "as_2d", False)
    assert_same(onnx_file.run_eager(module, spec, inputs), expected)


def test_identity_scaling_is_the_default_of_a_scaling_file():
    assert Scaling.from_dict({}).is_identity
