"""A torch module as an ONNX file: written by the legacy exporter, and compared with its spec."""

import hashlib
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnxruntime

from rfserve.export.errors import GraphError
from rfserve.export.spec import ModelSpec, TensorSpec, example
from rfserve.export.spec.tensor import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

# Protobuf holds no message of 2 GB or more; larger graphs keep their weights in a file beside them.
LARGEST_BYTES = 2 * 10**9
WEIGHTS_SUFFIX = ".data"
# What ONNX Runtime 1.19 reads, the oldest in the servers that this is for (Triton 2.51, release 24.10).
NEWEST_IR_VERSION = 10
STANDARD_DOMAINS = {"", "ai.onnx"}

ONNX_DTYPES = {"FP32": "FLOAT", "FP64": "DOUBLE", "INT64": "INT64", "BOOL": "BOOL"}


def write(module: "nn.Module", spec: ModelSpec, file: Path) -> None:
    """Trace `module` at the served sizes, fold what is constant, and write it with every dynamic axis of the spec open.

    `GraphError` when ONNX Runtime does not load what was traced.
    """
    import torch

    # Two rows and mixed masks: a size of one could be frozen into the graph unseen.
    inputs = tuple(torch.from_numpy(a) for a in example(spec, batch=2).values())
    tensors = (*spec.inputs, *spec.outputs)
    with tempfile.TemporaryDirectory(prefix=".traced-", dir=file.parent) as folder:
        traced = Path(folder) / file.name
        with warnings.catch_warnings(), torch.no_grad():
            # The legacy exporter is what the project is bound to; it says of itself that it is deprecated.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # Folding a Slice with a step is beyond it; ONNX Runtime folds the same nodes.
            warnings.filterwarnings("ignore", message="Constant folding")
            torch.onnx.export(
                module,
                inputs,
                str(traced),
                dynamo=False,
                opset_version=spec.opset,
                do_constant_folding=True,
                input_names=[t.name for t in spec.inputs],
                output_names=[t.name for t in spec.outputs],
                dynamic_axes={t.name: t.dynamic_axes() for t in tensors},
            )
        save(onnx.load(_folded(traced)), file)


def _folded(traced: Path) -> Path:
    """The graph beside it in which ONNX Runtime's basic level has folded constants, and BatchNorm into convolutions.

    That level writes standard operators only, so any runtime can read the result; what ONNX Runtime fuses for one
    machine is left to the machine that serves.
    """
    folded = traced.with_name(f"folded-{traced.name}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    if len(list(traced.parent.iterdir())) > 1:
        # The exporter has put the weights of a graph beyond protobuf's limit beside it.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "folded-weights")
    try:
        onnxruntime.InferenceSession(str(traced), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise GraphError(f"ONNX Runtime {onnxruntime.__version__} does not load {traced.name}: {error}") from error
    return folded


def save(model: onnx.ModelProto, file: Path) -> None:
    """Write a model; its weights go to `<file>.data` when it would not fit into one protobuf message.

    Its graph is named after its weights. ONNX Runtime's cache of TensorRT engines goes by names only, and would answer
    with another version's weights (onnxruntime issue 6455).
    """
    model.graph.name = f"rfserve_{_digest(model.graph)[:16]}"
    used = {n.domain for n in model.graph.node}
    imports = [o for o in model.opset_import if o.domain in used | STANDARD_DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    beside = weights_file(file)
    for old in (file, beside):
        old.unlink(missing_ok=True)
    outside = model.ByteSize() >= LARGEST_BYTES
    onnx.save(model, file, save_as_external_data=outside, location=beside.name if outside else None)


def _digest(graph: onnx.GraphProto) -> str:
    """SHA-256 of all weights with their names."""
    digest = hashlib.sha256()
    for weight in sorted(graph.initializer, key=lambda w: w.name):
        digest.update(f"{weight.name} {weight.data_type} {list(weight.dims)}".encode())
        digest.update(weight.raw_data or onnx.numpy_helper.to_array(weight).tobytes())
    return digest.hexdigest()


def size_bytes(file: Path) -> int:
    """What a graph takes on disk, with the weights beside it."""
    return sum(f.stat().st_size for f in (file, weights_file(file)) if f.is_file())


def weights_file(file: Path) -> Path:
    """Where the weights of a graph lie that is too large for one file."""
    return file.with_name(file.name + WEIGHTS_SUFFIX)


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
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), 0)
    if opset != spec.opset:
        problems.append(f"opset: got {opset}, expected {spec.opset}")
    if model.ir_version > NEWEST_IR_VERSION:
        problems.append(f"IR version: got {model.ir_version}, expected {NEWEST_IR_VERSION} or older")
    foreign = sorted({n.domain for n in model.graph.node} - STANDARD_DOMAINS)
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


def run_eager(module: "nn.Module", spec: ModelSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The torch module's outputs for the same inputs, by the spec's names."""
    import torch

    with torch.inference_mode():
        answer: Tensor | tuple[Tensor, ...] = module(*(torch.from_numpy(inputs[t.name]) for t in spec.inputs))
    outputs = (answer,) if isinstance(answer, torch.Tensor) else answer
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
