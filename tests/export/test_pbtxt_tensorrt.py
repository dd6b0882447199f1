"""The `gpu-tensorrt` configuration: the `gpu` one, and profiles that hold every request that the spec allows."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rfserve.export import accelerator, onnx_file, pbtxt
from rfserve.export.spec import GRAPHS, MODELS, example, find

ACCELERATED = {"localization_net"}
# What the stock backend hands on, of the parameters written here (the table in its README).
KNOWN = {
    "precision_mode",
    "max_workspace_size_bytes",
    "trt_builder_optimization_level",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
}


def shapes(profile: str) -> dict[str, tuple[int, ...]]:
    """A profile string read back, strictly."""
    found: dict[str, tuple[int, ...]] = {}
    for entry in profile.split(","):
        name, sizes = entry.split(":")
        assert name not in found
        found[name] = tuple(int(size) for size in sizes.split("x"))
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_profile_brackets_every_shape_that_the_spec_allows(name):
    spec = GRAPHS[name]
    given = accelerator.parameters(spec, 8)
    smallest, likely, largest = (shapes(given[f"trt_profile_{bound}_shapes"]) for bound in ("min", "opt", "max"))
    assert set(smallest) == set(likely) == set(largest) == {t.name for t in spec.inputs}
    edges = [(1, "minimum"), (1, "served"), (8, "served"), (spec.max_batch_size, "minimum")]
    requests = [example(spec, batch=b, sizes={a.name: getattr(a, size) for a in spec.axes}) for b, size in edges]
    for request in requests:
        spec.check(request)
        for tensor, array in request.items():
            assert all(np.less_equal(smallest[tensor], array.shape)), tensor
            assert all(np.less_equal(array.shape, largest[tensor])), tensor
    assert likely == {n: a.shape for n, a in requests[2].items()}
    assert smallest == {n: a.shape for n, a in requests[0].items()}
    bounds = {a.name: a.maximum for a in spec.axes}
    assert largest == {t.name: t.shape(spec.max_batch_size, bounds) for t in spec.inputs}


@pytest.mark.parametrize("name", MODELS)
def test_configuration_is_that_of_the_gpu_but_for_the_accelerator(name):
    config = pbtxt.parse(pbtxt.config_text(MODELS[name], "gpu-tensorrt", version=3))
    found = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [a.name for a in found] == (["tensorrt"] if name in ACCELERATED else [])
    config.ClearField("optimization")
    assert config == pbtxt.parse(pbtxt.config_text(MODELS[name], "gpu", version=3))


def test_parameters_are_those_that_the_stock_backend_takes():
    config = pbtxt.parse(pbtxt.config_text(find("localization_net"), "gpu-tensorrt"))
    given = dict(config.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters)
    assert set(given) == KNOWN
    assert all(given.values()), "the stock backend drops what is empty"
    assert given["precision_mode"] == "FP32"
    assert given["trt_engine_cache_path"] == given["trt_timing_cache_path"] == "/var/cache/rfserve"
    assert given["trt_profile_opt_shapes"] == "mel_spectrogram:8x3x128x32"


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_holds_what_tensorrt_does_not_take_unless_it_is_accelerated(name, repository: Path):
    graph = onnx.load(repository / name / "1" / "model.onnx").graph
    beyond = {n.op_type for n in graph.node} & {"NonZero", "If", "Loop"}
    if onnx.TensorProto.DOUBLE in {a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute}:
        beyond.add("FP64")
    assert accelerator.accelerates(GRAPHS[name]) == (not beyond)
    assert accelerator.accelerates(GRAPHS[name]) == (name in ACCELERATED)


@pytest.mark.parametrize("name", GRAPHS)
def test_published_graph_is_named_after_its_weights(name, repository: Path):
    assert re.fullmatch("rfserve_[0-9a-f]{16}", onnx.load(repository / name / "1" / "model.onnx").graph.name)


def test_versions_that_differ_in_weights_alone_share_no_engine(repository: Path, tmp_path: Path):
    model = onnx.load(repository / "heimdall_net" / "1" / "model.onnx")
    files = [tmp_path / f"{n}.onnx" for n in range(3)]
    for file in files[:2]:
        onnx_file.save(model, file)
    weight = next(w for w in model.graph.initializer if w.name.endswith("position_head.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(1e-3), weight.name))
    onnx_file.save(model, files[2])
    first, same, other = (onnx.load(f).graph.name for f in files)
    assert first == same
    assert first != other
