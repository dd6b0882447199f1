"""The gate catches what the field's exporters let through: frozen ids, frozen counts, NaN, one bad element."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rfserve.export import onnx_file, parity
from rfserve.export.elements import compare
from rfserve.export.errors import GraphError, ParityError
from rfserve.export.networks.geometry_encoder import GeometryEncoder
from rfserve.export.publication import Source, build_network, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS

SPEC = GRAPHS["heimdall_net"]
# A small gate is enough to catch these, and keeps the tests short.
SMALL = replace(SPEC, max_batch_size=8)


@pytest.fixture(scope="module")
def network():
    return build_network(SPEC, Source(encoder_order="heimdall-1.0")).module


def measured(module: nn.Module, traced: nn.Module, folder: Path) -> parity.Parity:
    onnx_file.write(traced, SMALL, folder / "model.onnx")
    return parity.measure(module, onnx_file.open_session(folder / "model.onnx"), SMALL)


class FrozenIds(nn.Module):
    """What `.item()` in a forward does to a trace."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, iq, features, positions, ids, mask):
        frozen = torch.zeros_like(ids)
        return self.inner(iq, features, positions, frozen, mask)


class OneBadElement(nn.Module):
    """A difference in one element of one output, for rows after the first only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        position, uncertainty = self.inner(*inputs)
        rows = torch.arange(position.shape[0])
        shift = torch.where(rows == 2, 10.0, 0.0)
        return position, uncertainty + torch.stack([torch.zeros_like(shift), shift], -1)


class Arctangent(GeometryEncoder):
    """The bearing by atan2, which the legacy exporter writes as atan(y / x)."""

    def forward(self, positions, active):
        kept = torch.where(active.unsqueeze(-1), positions, torch.zeros_like(positions))
        delta = kept.unsqueeze(1) - kept.unsqueeze(2)
        bearing = torch.atan2(delta[..., 1], delta[..., 0])
        return super().forward(positions, active) + 0 * bearing.sum((1, 2)).unsqueeze(-1)


@pytest.mark.parametrize("wrapper", [FrozenIds, OneBadElement])
def test_gate_fails_when_the_graph_computes_something_else(network, wrapper, tmp_path: Path):
    result = measured(network, wrapper(network).eval(), tmp_path)
    assert result.failures
    with pytest.raises(ParityError, match=r"uncertainties at batch"):
        result.require("heimdall_net")


def test_gate_fails_when_the_export_makes_nan_on_the_diagonal(tmp_path: Path):
    module = build_network(SPEC, Source(encoder_order="heimdall-1.0")).module
    module.network.geometry_encoder.__class__ = Arctangent
    result = measured(module, module, tmp_path)
    assert any(f.difference == np.inf for f in result.failures)


def test_gate_fails_when_the_network_itself_answers_nan(tmp_path: Path):
    """NaN equals NaN: a graph that is as broken as its network would be faithful."""
    module = build_network(SPEC, Source(encoder_order="heimdall-1.0")).module
    norm = next(m for m in module.modules() if isinstance(m, nn.BatchNorm1d))
    # As averaging buffers in half precision leaves it.
    norm.running_var[0] = -1.0
    with pytest.raises(ParityError, match=r"positions and uncertainties that are not finite .*, at batch 1"):
        measured(module, module, tmp_path)


def test_gate_passes_a_faithful_graph(network, tmp_path: Path):
    units = {"positions": np.full(2, 1 / 7.8), "uncertainties": np.full(2, 1e4)}
    onnx_file.write(network, SMALL, tmp_path / "model.onnx")
    session = onnx_file.open_session(tmp_path / "model.onnx")
    result = parity.measure(network, session, SMALL, units=units)
    assert not result.failures
    assert result.cases == 25


def test_gate_covers_the_batches_and_receivers_that_the_design_asks_for():
    seen = {(i["mask"].shape) for _, i in parity.cases(SPEC)}
    assert seen == {(b, r) for b in (1, 2, 3, 7, 32) for r in (1, 2, 3, 10, 32)}


def test_failed_gate_publishes_nothing(network, tmp_path: Path, monkeypatch):
    real = onnx_file.write
    monkeypatch.setattr(onnx_file, "write", lambda module, spec, file: real(OneBadElement(module).eval(), spec, file))
    repository = Repository(tmp_path / "repository")
    with pytest.raises(ParityError):
        publish(SPEC, repository, Source(encoder_order="heimdall-1.0"), version=None, report=lambda _: None)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("got", "expected", "bad"),
    [
        ([1.0, 2.0], [1.0, 2.0], False),
        ([1.0, np.nan], [1.0, np.nan], False),
        ([1.0, 2.0], [1.0, np.nan], True),
        ([1.0, np.nan], [1.0, 2.0], True),
        ([np.inf], [np.inf], False),
        ([np.inf], [-np.inf], True),
        ([1.0, 2.00002], [1.0, 2.0], True),
        ([1.0], [1.0, 2.0], True),
    ],
)
def test_comparison_is_per_element_and_knows_nan(got, expected, bad):
    found = compare(np.array(got, np.float32), np.array(expected, np.float32), np.float64(1e-5))
    assert found[2] is bad


def test_graph_with_other_tensors_than_the_spec_is_refused(network, tmp_path: Path):
    onnx_file.write(network, SPEC, tmp_path / "model.onnx")
    with pytest.raises(GraphError, match="inputs: got"):
        onnx_file.check(tmp_path / "model.onnx", GRAPHS["localization_net"])
    with pytest.raises(GraphError, match=r"opset: got 20, expected 18"):
        onnx_file.check(tmp_path / "model.onnx", replace(SPEC, opset=18))


def test_file_that_is_no_onnx_is_refused(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07nothing")
    with pytest.raises(GraphError):
        onnx_file.check(tmp_path / "model.onnx", SPEC)
    with pytest.raises(GraphError, match="does not load"):
        onnx_file.open_session(tmp_path / "model.onnx")
