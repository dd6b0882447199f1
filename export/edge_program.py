"""A Core ML program, as read back from a package, computed op by op where no Core ML runs.

Nearly every operator of coremltools carries NumPy code of its own, with which its compiler folds constants. Given
numbers instead of variables, building an operator therefore computes it. The few that have none are computed here.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import Function
from torch.nn import functional as F

from rfserve.export.errors import EdgeError
from rfserve.export.spec.tensor import Array

TARGET = coremltools.target.iOS17


def read(package: Path) -> Any:
    """The function of an ML program package that Core ML would run."""
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    specification = model.get_spec()
    return load(specification, specification.specificationVersion, model.weights_dir).functions["main"]


def evaluate(function: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name; `EdgeError` when an operator cannot be computed."""
    values: dict[str, Any] = dict(inputs)

    def value(variable: Any) -> Any:
        if isinstance(variable, list | tuple):
            return [value(v) for v in variable]
        if variable.name in values:
            return values[variable.name]
        # A copy: slice_by_index writes into the bounds that it is given.
        return variable.val.copy() if isinstance(variable.val, np.ndarray) else variable.val

    for operation in function.operations:
        if operation.op_type == "const":
            continue
        arguments = {name: value(v) for name, v in operation.inputs.items() if v is not None}
        results = _compute(operation.op_type, arguments)
        for variable, result in zip(operation.outputs, results, strict=True):
            if result is None:
                raise EdgeError(f"{operation.op_type} {operation.name} cannot be computed here: it has no value")
            values[variable.name] = np.asarray(result)
    return {variable.name: values[variable.name] for variable in function.outputs}


def _compute(kind: str, arguments: dict[str, Any]) -> list[Any]:
    if kind in OWN:
        return [OWN[kind](**arguments)]
    with Function({}, opset_version=TARGET), warnings.catch_warnings():
        # Its NumPy code was written for another NumPy, and meets NaN, which is among the inputs on purpose.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        made = getattr(Builder, kind)(**arguments)
    return [v.val for v in (made if isinstance(made, list | tuple) else [made])]


def _tensor(array: Array | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(np.asarray(array))


def _conv(
    *,
    x: Array,
    weight: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    dilations: Array,
    groups: int,
    bias: Array | None = None,
) -> Array:
    if pad_type not in {"custom", "valid"}:
        raise EdgeError(f"conv cannot be computed here with padding {pad_type!r}; expected custom or valid")
    axes = x.ndim - 2
    ends = [int(p) for axis in reversed(range(axes)) for p in pad[2 * axis : 2 * axis + 2]]
    padded = F.pad(torch.from_numpy(x), ends if pad_type == "custom" else [0] * 2 * axes)
    convolve: Any = F.conv1d if axes == 1 else F.conv2d
    stride, dilation = tuple(map(int, strides)), tuple(map(int, dilations))
    out: Array = convolve(padded, _tensor(weight), _tensor(bias), stride, 0, dilation, int(groups)).numpy()
    return out


def _batch_norm(*, x: Array, mean: Array, variance: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    statistics = (_tensor(mean), _tensor(variance), _tensor(gamma), _tensor(beta))
    out: Array = F.batch_norm(torch.from_numpy(x), *statistics, eps=float(epsilon)).numpy()
    return out


def _silu(x: Array) -> Array:
    out: Array = F.silu(torch.from_numpy(x)).numpy()
    return out


OWN: Mapping[str, Any] = {"conv": _conv, "batch_norm": _batch_norm, "silu": _silu}
