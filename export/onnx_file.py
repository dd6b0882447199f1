"""A torch module as an ONNX file: written by the legacy exporter, and compared with its spec."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from rfserve.export.errors import GraphError
from rfserve.export.manifest import file_facts
from rfserve.export.spec import ModelSpec, TensorSpec, example
from rfserve.export.spec.tensor import Array

ONNX_DTYPES = {"FP32": "FLOAT", "FP64": "DOUBLE", "INT64": "INT64", "BOOL": "BOOL"}


def write(module: nn.Module, spec: ModelSpec, file: Path) -> None:
    """Trace `module` at the served sizes and write it, with every dynamic axis of the spec left open."""
    # Two rows and mixed masks: a size of one could be frozen into the graph unseen.
    inputs = tuple(torch.from_numpy(a) for a in example(spec, batch=2).values())
    tensors = (*spec.inputs, *spec.outputs)
    with warnings.catch_warnings(), torch.no_grad():
        # The legacy exporter is what the project is bound to; it says of itself that it is deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Folding a Slice with a step is beyond it; ONNX Runtime folds the same nodes when it loads the graph.
        warnings.filterwarnings("ignore", message="Constant folding")
        torch.onnx.export(
            module,
            inputs,
            str(file),
            dynamo=False,
            opset_version=spec.opset,
            do_constant_folding=True,
            input_names=[t.name for t in spec.inputs],
            output_names=[t.name for t in spec.outputs],
            dynamic_axes={t.name: t.dynamic_axes() for t in tensors},
        )
    name_by_content(file, spec)


def name_by_content(file: Path, spec: ModelSpec) -> None:
    """Name the graph after what the file holds: two versions that differ in weights alone get different names.

    ONNX Runtime's cache of TensorRT engines goes by names only, and would answer with another version's weights
    (onnxruntime issue 6455): the graph's name is part of an engine's file name, the weights are not.
    """
    model = onnx.load(file, load_external_data=False)
    model.graph.name = f"{spec.name}_{file_facts(file)['sha256'][:16]}"
    onnx.save(model, file)


def check(file: Path, spec: ModelSpec) -> None:
    """`GraphError` with every difference, unless the file passes ONNX's checker and has the tensors of the spec."""
    try:
        onnx.checker.check_model(str(file), full_check=False)
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # the checker and protobuf raise unrelated types
        raise GraphError(f"{file.name} is not a valid ONNX file: {error}; export it again") from error
    problems = [
        *_compare("input", spec.inputs, model.graph.input),
        *_compare("output", spec.outputs, model.graph.output),
    ]
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if opset != spec.opset:
        problems.append(f"opset: got {opset}, expected {spec.opset}")
    foreign = sorted({n.domain for n in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        problems.append(f"operator domains {foreign}: a stock backend has none of them")
    if problems:
        raise GraphError(f"{spec.name}: the graph is not what the spec says: {'; '.join(problems)}")


def open_session(file: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime on the CPU at its default optimisation level; `GraphError` when it does not load."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise GraphError(f"ONNX Runtime {onnxruntime.__version__} does not load {file.name}: {error}") from error


def run_session(session: onnxruntime.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name."""
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_eager(module: nn.Module, spec: ModelSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The torch module's outputs for the same inputs, by the spec's names."""
    with torch.inference_mode():
        answer: Tensor | tuple[Tensor, ...] = module(*(torch.from_numpy(inputs[t.name]) for t in spec.inputs))
    outputs = (answer,) if isinstance(answer, Tensor) else answer
    return {t.name: o.numpy() for t, o in zip(spec.outputs, outputs, strict=True)}


def _compare(role: str, wanted: tuple[TensorSpec, ...], found: list[onnx.ValueInfoProto]) -> list[str]:
    problems = []
    by_name = {f.name: f for f in found}
    if set(by_name) != {t.name for t in wanted}:
        return [f"{role}s: got {sorted(by_name)}, expected {sorted(t.name for t in wanted)}"]
    for tensor in wanted:
        kind = by_name[tensor.name].type.tensor_type
        dtype = onnx.TensorProto.DataType.Name(kind.elem_type)
        dims = [d.dim_param or d.dim_value for d in kind.shape.dim]
        expected = ["batch", *tensor.axes]
        if dtype != ONNX_DTYPES[tensor.dtype.value] or dims != expected:
            problems.append(f"{role} {tensor.name}: got {dtype} {dims}, expected {tensor.dtype.value} {expected}")
    return problems
