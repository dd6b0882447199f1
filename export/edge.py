"""A network as a Core ML package for Apple devices: one event at a time, at the served sizes.

Core ML runs on Apple's systems only. Elsewhere the package that was written is read back and computed op by op
(`edge_program`), and must agree with eager PyTorch as an ONNX export must.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from coremltools.converters.mil import Builder, register_torch_op
from coremltools.converters.mil.frontend.torch.ops import _get_inputs as torch_inputs
from coremltools.converters.mil.mil import types
from torch import Tensor, nn

from rfserve.export import edge_program, onnx_file, parity
from rfserve.export.elements import compare, not_finite
from rfserve.export.errors import EdgeError, ParityError
from rfserve.export.progress import Report
from rfserve.export.publication import Built
from rfserve.export.scaling import moved_home, network_units
from rfserve.export.spec import ModelSpec, TensorSpec, example
from rfserve.export.spec.tensor import Array

SUFFIX = ".mlpackage"
RECEIVERS = (1, 2, 3)
# It warns of versions newer than itself and of every FP64 intermediate; what goes wrong is an exception, or the gate's.
logging.getLogger("coremltools").setLevel(logging.ERROR)


@register_torch_op(override=True)  # type: ignore[untyped-decorator]
def index_select(context: Any, node: Any) -> None:
    """As coremltools has it, and for BOOL too, which its own gather refuses."""
    x, axis, indices = torch_inputs(context, node, expected=3)
    if x.dtype == types.bool:
        picked = Builder.gather(x=Builder.cast(x=x, dtype="int32"), indices=indices, axis=axis)
        context.add(Builder.cast(x=picked, dtype="bool", name=node.name))
    else:
        context.add(Builder.gather(x=x, indices=indices, axis=axis, name=node.name))


@register_torch_op(torch_alias=["or"], override=True)  # type: ignore[untyped-decorator]
def either(context: Any, node: Any) -> None:
    """`a | b` of BOOL, which coremltools knows as `logical_or` only."""
    x, y = torch_inputs(context, node, expected=2)
    context.add(Builder.logical_or(x=x, y=y, name=node.name))


class _Int32Inputs(nn.Module):
    """A Core ML model takes neither INT64 nor BOOL: both come as INT32."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.module = module
        self.kinds = tuple(t.dtype.value for t in spec.inputs)

    def forward(self, *inputs: Tensor) -> Any:
        given = {"BOOL": lambda x: x != 0, "INT64": lambda x: x.to(torch.int64)}
        return self.module(*(given.get(k, nn.Identity())(x) for k, x in zip(self.kinds, inputs, strict=True)))


def write(spec: ModelSpec, built: Built, package: Path, report: Report) -> int:
    """Convert, compare and write; the package's size in bytes. Nothing is written when a step fails.

    `EdgeError` when the model or the package's name cannot be, or the converter refuses; `ParityError` when the
    package computes something else than the network.
    """
    if not spec.has_weights:
        raise EdgeError(f"{spec.name} computes in FP64, which Core ML does not have; run it before the network")
    if package.suffix != SUFFIX or package.exists() or not package.parent.is_dir():
        raise EdgeError(f"got {package}; expected a new name that ends in {SUFFIX}, in a folder that exists")
    report("converting to a Core ML program")
    model = _convert(spec, built)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=package.parent) as folder:
        beside = Path(folder) / package.name
        model.save(str(beside))
        report("comparing the package, op by op, with eager PyTorch")
        _check(spec, beside)
        report(f"{_compare(spec, built, beside)} cases agree")
        beside.rename(package)
    return sum(f.stat().st_size for f in package.rglob("*") if f.is_file())


def _convert(spec: ModelSpec, built: Built) -> Any:
    arrays = _edge_inputs(example(spec))
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer is coremltools' way in; PyTorch deprecates it.
        warnings.filterwarnings("ignore", message="`torch.jit.trace")
        wrapped = _Int32Inputs(built.module, spec).eval()
        trace: Any = torch.jit.trace
        traced = trace(wrapped, tuple(torch.from_numpy(a) for a in arrays.values()), check_trace=False)
        try:
            model = coremltools.convert(
                traced,
                inputs=[coremltools.TensorType(name=n, shape=a.shape, dtype=a.dtype.type) for n, a in arrays.items()],
                outputs=[coremltools.TensorType(name=t.name, dtype=np.float32) for t in spec.outputs],
                convert_to="mlprogram",
                # The gate compares FP32; Core ML's default is FP16.
                compute_precision=coremltools.precision.FLOAT32,
                minimum_deployment_target=edge_program.TARGET,
                skip_model_load=True,
            )
        except Exception as error:  # the converter raises whatever its operators raise
            raise EdgeError(
                f"{spec.name}: coremltools {coremltools.__version__} does not convert it: {error}"
            ) from error
    model.short_description = f"{spec.name}: {spec.summary}"
    for tensor in spec.inputs:
        model.input_description[tensor.name] = f"{tensor.meaning} ({tensor.unit})"
    for tensor in spec.outputs:
        model.output_description[tensor.name] = f"{tensor.meaning} ({tensor.unit})"
    facts = {"weights": built.weights, "variant": built.variant, "encoder_order": built.encoder_order}
    facts |= {"scaling": json.dumps(built.scaling.to_dict())}
    if built.checkpoint is not None:
        facts["checkpoint_sha256"] = built.checkpoint.sha256
    model.user_defined_metadata.update({f"rfserve.{k}": v for k, v in facts.items() if v is not None})
    return model


def _check(spec: ModelSpec, package: Path) -> None:
    """`EdgeError` unless the package has the tensors of the spec, at the served sizes."""
    description = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec().description
    kinds = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    for wanted, found in ((spec.inputs, description.input), (spec.outputs, description.output)):
        got = {f.name: (kinds.Name(f.type.multiArrayType.dataType), tuple(f.type.multiArrayType.shape)) for f in found}
        expected = {t.name: (_edge_type(t), t.shape(1, spec.served_sizes)) for t in wanted}
        # A shape that the converter leaves open is no difference: rows are computed, not declared.
        if {n: k for n, (k, _) in got.items()} != {n: k for n, (k, _) in expected.items()} or any(
            shape and shape != expected[n][1] for n, (_, shape) in got.items()
        ):
            raise EdgeError(f"{spec.name}: the package has {got}; expected {expected}")


def _compare(spec: ModelSpec, built: Built, package: Path) -> int:
    """The number of cases, when all agree."""
    function = edge_program.read(package)
    units = network_units(spec, built.scaling)
    count = 0
    for valid, given in _cases(spec):
        count += 1
        inputs = moved_home(built.scaling, given)
        expected = onnx_file.run_eager(built.module, spec, inputs)
        if valid and (broken := not_finite(expected)):
            raise ParityError(
                f"{spec.name}: eager PyTorch itself answers {' and '.join(broken)} that are not finite to the finite "
                f"inputs of case {count}; nothing was written: give a checkpoint of sound weights"
            )
        got = edge_program.evaluate(function, _edge_inputs(inputs))
        for name, wanted in expected.items():
            difference, allowed, bad = compare(got[name], wanted, spec.tolerance * np.asarray(units[name]))
            if bad:
                raise ParityError(
                    f"{spec.name}: the Core ML program differs from eager PyTorch in {name}, case {count}, by "
                    f"{difference:.3g}, allowed {allowed:.3g}; nothing was written"
                )
    return count


def _cases(spec: ModelSpec) -> Iterator[tuple[bool, dict[str, Array]]]:
    """One event each: every number of receivers in any order with garbage beside them, and one that is no event.

    With each, whether it is one.
    """
    rng = np.random.default_rng(1)
    receivers = spec.bounds.get("receivers")
    for active in (None,) if receivers is None else (*RECEIVERS, receivers.served):
        inputs = example(spec, seed=len(RECEIVERS) + (active or 0), active=active)
        if active is not None:
            parity.disorder(spec, inputs, rng)
        yield True, inputs
    invalid = example(spec, seed=1)
    invalid[spec.inputs[0].name].flat[0] = np.nan
    yield False, invalid


def _edge_type(tensor: TensorSpec) -> str:
    return "FLOAT32" if tensor.dtype.value == "FP32" else "INT32"


def _edge_inputs(inputs: dict[str, Array]) -> dict[str, Array]:
    return {n: a if a.dtype == np.float32 else a.astype(np.int32) for n, a in inputs.items()}
