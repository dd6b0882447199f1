"""One tensor of a served model: name, dtype, axes, unit and the values a test or a load may put in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfserve.export.spec.errors import SpecError, TensorError

Array = NDArray[Any]


class DType(Enum):
    """A Triton data type and its NumPy counterpart."""

    FP32 = "FP32"
    FP64 = "FP64"
    INT64 = "INT64"
    BOOL = "BOOL"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype that holds one element."""
        return np.dtype({"FP32": "float32", "FP64": "float64", "INT64": "int64", "BOOL": "bool"}[self.value])


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A dynamic axis: its name, its bounds, and the size that clients send and warm-up uses.

    `padded` says that a shorter tensor is filled up to `served` by clients (with zeros and False).
    """

    name: str
    minimum: int
    maximum: int
    served: int
    padded: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.served <= self.maximum:
            raise SpecError(
                f"axis {self.name}: got minimum {self.minimum}, served {self.served}, maximum {self.maximum}; "
                "expected 1 <= minimum <= served <= maximum"
            )


@dataclass(frozen=True, kw_only=True)
class Values:
    """What an element may hold, so that examples are realistic.

    `kind` is `normal` (zero mean, standard deviation `high`), `uniform` between `low` and `high` (numbers, or one per
    entry of the last axis), `ids` (distinct integers from `low` up to, not including, `high` along the axis) or
    `mask` (True first, then False).
    """

    kind: str
    low: float | tuple[float, ...] = 0.0
    high: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if self.kind not in {"normal", "uniform", "ids", "mask"}:
            raise SpecError(f"values: got kind {self.kind!r}; expected normal, uniform, ids or mask")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output. `axes` leaves the batch axis out: integers are fixed sizes, names are dynamic axes."""

    name: str
    dtype: DType
    axes: tuple[int | str, ...]
    unit: str
    meaning: str
    values: Values | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SpecError(f"tensor name {self.name!r} is not an identifier")
        if not self.axes or any(isinstance(a, int) and a < 1 for a in self.axes):
            raise SpecError(f"tensor {self.name}: got axes {self.axes}; expected at least one, sizes from 1")

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape without batch, as Triton writes it: -1 for a dynamic axis."""
        return tuple(a if isinstance(a, int) else -1 for a in self.axes)

    def shape(self, batch: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The whole shape at a batch size and at the given sizes of the dynamic axes."""
        return (batch, *(a if isinstance(a, int) else sizes[a] for a in self.axes))

    def dynamic_axes(self) -> dict[int, str]:
        """Axis index to axis name, batch included, as `torch.onnx.export` takes it."""
        return {0: "batch"} | {i + 1: a for i, a in enumerate(self.axes) if isinstance(a, str)}

    def describe(self) -> str:
        """Dtype and shape, as `FP32 (batch, receivers, 2, samples)`."""
        return f"{self.dtype.value} ({', '.join(['batch', *map(str, self.axes)])})"

    def check(self, array: Array, bounds: Mapping[str, Axis]) -> None:
        """Raise `TensorError` unless the batched `array` has this dtype, rank, sizes and axis bounds."""
        problem = None
        if array.dtype != self.dtype.numpy:
            problem = f"dtype {array.dtype}"
        elif array.ndim != len(self.axes) + 1:
            problem = f"shape {array.shape}"
        else:
            for size, axis in zip(array.shape[1:], self.axes, strict=True):
                if isinstance(axis, int):
                    if size != axis:
                        problem = f"shape {array.shape}"
                elif axis in bounds and not bounds[axis].minimum <= size <= bounds[axis].maximum:
                    b = bounds[axis]
                    problem = f"{size} {axis} (allowed: {b.minimum} to {b.maximum})"
        if problem:
            raise TensorError(f"tensor {self.name}: got {problem}; expected {self.describe()}")
