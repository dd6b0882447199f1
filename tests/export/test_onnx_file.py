"""What a published graph looks like: folded, in standard operators, whole when its weights lie beside it."""

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from rfserve.export import onnx_file
from rfserve.export.errors import GraphError
from rfserve.export.publication import Source, build_network, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS, example
from rfserve.export.verification import problems

VARIANTS = {"localization_net": "tiny"}


def operators(model: onnx.ModelProto) -> collections.Counter:
    return collections.Counter(n.op_type for n in model.graph.node)


@pytest.fixture(scope="module", params=GRAPHS)
def written(request, tmp_path_factory):
    spec = GRAPHS[request.param]
    built = build_network(spec, Source(variant=VARIANTS.get(spec.name)))
    file: Path = tmp_path_factory.mktemp(spec.name) / "model.onnx"
    onnx_file.write(built.module, spec, file)
    return spec, built.module, file


def test_nothing_constant_is_left_to_compute(written):
    _, _, file = written
    model = onnx.load(file)
    found = operators(model)
    assert not {"Constant", "Identity", "Dropout"} & set(found)
    made = {o: n.op_type for n in model.graph.node for o in n.output}
    normalised = [made.get(n.input[0]) for n in model.graph.node if n.op_type == "BatchNormalization"]
    assert "Conv" not in normalised
    assert list(file.parent.iterdir()) == [file]


def test_the_graph_needs_standard_operators_of_one_opset_only(written):
    spec, _, file = written
    model = onnx.load(file)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", spec.opset)]
    assert {n.domain for n in model.graph.node} == {""}
    assert model.ir_version <= onnx_file.NEWEST_IR_VERSION
    onnx_file.check(file, spec)


def test_normalisation_and_activation_are_one_operator_each(written, tmp_path: Path):
    spec, _, file = written
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    published, fused = operators(onnx.load(file)), operators(onnx.load(tmp_path / "optimized.onnx"))
    assert (published["LayerNormalization"] > 0) == (published["Gelu"] > 0) == spec.has_weights
    assert fused["LayerNormalization"] + fused["SkipLayerNormalization"] == published["LayerNormalization"]
    assert fused["Gelu"] + fused["BiasGelu"] == published["Gelu"]
    assert "Erf" not in fused


def test_a_newer_ir_version_than_servers_read_is_refused(written, tmp_path: Path):
    spec, _, file = written
    model = onnx.load(file)
    model.ir_version = onnx_file.NEWEST_IR_VERSION + 1
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(GraphError, match="IR version: got 11, expected 10 or older"):
        onnx_file.check(tmp_path / "model.onnx", spec)


def test_weights_beyond_protobufs_limit_lie_beside_the_graph_and_in_the_manifest(
    tmp_path: Path, monkeypatch, brief_gate
):
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", 1_000_000)
    spec = GRAPHS["heimdall_net"]
    repository = Repository(tmp_path)
    manifest = publish(spec, repository, Source(precision="fp16"), version=None, report=lambda _: None)
    assert set(manifest.files) == {"model.onnx", "model.onnx.data"}
    folder = tmp_path / "heimdall_net" / "1"
    assert {f.name for f in folder.iterdir()} == {"model.onnx", "model.onnx.data", "manifest.json"}
    assert (folder / "model.onnx").stat().st_size < 1_000_000
    assert problems(repository, spec.name) == []
    inputs = example(spec)
    answer = onnx_file.run_session(onnx_file.open_session(folder / "model.onnx"), inputs)
    assert np.isfinite(answer["positions"]).all()
    (folder / "model.onnx.data").write_bytes(b"")
    assert any("model.onnx.data changed" in p for p in problems(repository, spec.name))
