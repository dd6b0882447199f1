"""Heimdall checkpoints give Heimdall's numbers: eager, in ONNX Runtime, and through a real Triton over gRPC."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from served import BriefServer
from torch import nn

from rfserve.export import onnx_file
from rfserve.export.manifest import GRAPH_FILE, Manifest
from rfserve.export.publication import Source, build_network, publish
from rfserve.export.repository import Repository, version_files
from rfserve.export.spec import GRAPHS, ModelSpec
from rfserve.server.process import ServerOptions

NETWORKS = {
    "heimdall_net": ("heimdall_net", 2e-6),
    "heimdall_net_pro": ("heimdall_net_pro", 2e-6),
    "localization_net_tiny": ("localization_net", 1e-4),
    "localization_net_large": ("localization_net", 1e-4),
}
LARGE = "localization_net_large"


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, heimdall_state, golden, tmp_path_factory):
    """(name, spec, checkpoint file, inputs, expected outputs, tolerance) of one network."""
    model, tolerance = NETWORKS[request.param]
    spec = GRAPHS[model]
    folder = tmp_path_factory.mktemp(request.param)
    torch.save(heimdall_state(request.param), folder / "checkpoint.pt")
    content = golden(request.param)
    inputs = {t.name: content[t.name].astype(t.dtype.numpy) for t in spec.inputs}
    expected = {t.name: content[t.name] for t in spec.outputs}
    return request.param, spec, folder / "checkpoint.pt", inputs, expected, tolerance


def publish_ungated(repository: Repository, spec: ModelSpec, module: nn.Module) -> None:
    """Without the parity gate: 90 runs of 0.8 GB of weights show what those of the smallest size have shown."""

    def fill(folder: Path) -> Callable[[int], Manifest]:
        onnx_file.write(module, spec, folder / GRAPH_FILE)
        files = version_files(folder)
        return lambda number: Manifest(
            model=spec.name, version=number, weights="checkpoint", files=files, opset=spec.opset
        )

    repository.publish(spec, fill)


@contextmanager
def served(folder: Path) -> Iterator[triton.InferenceServerClient]:
    options = ServerOptions(repository=folder, grpc_port=0, http_port=0, metrics_port=0)
    with BriefServer(options) as server, triton.InferenceServerClient(server.grpc_url) as client:
        yield client


def assert_close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.server
def test_checkpoint_gives_heimdalls_numbers_eager_in_onnx_runtime_and_through_triton(
    case: tuple, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    name, spec, checkpoint, inputs, expected, tolerance = case
    module = build_network(spec, Source(checkpoint=checkpoint)).module
    assert_close(onnx_file.run_eager(module, spec, inputs), expected, tolerance)

    if name != LARGE:
        publish(spec, Repository(tmp_path), Source(checkpoint=checkpoint), version=None, report=lambda _: None)
    else:
        publish_ungated(Repository(tmp_path), spec, module)
    session = onnx_file.open_session(tmp_path / spec.name / "1" / "model.onnx")
    assert_close(onnx_file.run_session(session, inputs), expected, tolerance)
    del session

    with served(tmp_path) as client:
        sent = []
        for tensor in spec.inputs:
            array = inputs[tensor.name]
            sent.append(triton.InferInput(tensor.name, list(array.shape), tensor.dtype.value))
            sent[-1].set_data_from_numpy(array)
        answer = client.infer(spec.name, sent, client_timeout=60)
        got = {t.name: answer.as_numpy(t.name) for t in spec.outputs}
    worst = max(float(np.abs(got[name] - values).max()) for name, values in expected.items())
    record_property("worst_difference", worst)
    assert_close(got, expected, tolerance)


def test_golden_case_fails_when_the_encoder_order_is_the_other_one(heimdall_state, golden, tmp_path: Path) -> None:
    spec = GRAPHS["heimdall_net"]
    torch.save(heimdall_state("heimdall_net"), tmp_path / "c.pt")
    content = golden("heimdall_net")
    inputs = {t.name: content[t.name].astype(t.dtype.numpy) for t in spec.inputs}
    module = build_network(spec, Source(checkpoint=tmp_path / "c.pt", encoder_order="mbconv")).module
    got = onnx_file.run_eager(module, spec, inputs)
    assert np.abs(got["positions"] - content["positions"]).max() > 1e-3
