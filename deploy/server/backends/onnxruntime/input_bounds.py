"""How large an input may be: -1 in Triton's configuration takes any size, and ONNX Runtime keeps the memory it took.

The parameter `bounds.<input>` holds JSON for the axes behind the batch: a number, or the smallest and the largest size.
One request of 400 MB made a model of 120 MB one of 6.6 GB, and kept it from its other callers for 27 s.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

PREFIX = "bounds."


class InputBounds:
    """The sizes of a model's inputs, from its configuration; without a parameter, what `dims` say."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]], parameters: Mapping[str, str], *, batched: bool) -> None:
        self._batched = batched
        self._axes: dict[str, list[tuple[int, float]]] = {}
        for tensor in inputs:
            given = parameters.get(PREFIX + tensor["name"])
            axes = [int(d) for d in tensor["dims"]] if given is None else json.loads(given)
            self._axes[tensor["name"]] = [_bounds(a) for a in axes]

    def problem(self, arrays: Mapping[str, NDArray[Any]]) -> str:
        """What is wrong with a request's inputs; empty when nothing is."""
        for name, array in arrays.items():
            axes = [(1, float("inf")), *self._axes[name]] if self._batched else self._axes[name]
            sizes = array.shape
            if len(sizes) != len(axes) or any(not low <= s <= high for s, (low, high) in zip(sizes, axes, strict=True)):
                expected = ", ".join(["batch"] * self._batched + [_text(*a) for a in self._axes[name]])
                return f"input {name}: got shape {list(sizes)}; expected [{expected}]"
        return ""


def _bounds(axis: int | Sequence[int]) -> tuple[int, float]:
    if isinstance(axis, int):
        return (axis, axis) if axis >= 0 else (0, float("inf"))
    low, high = axis
    return low, high


def _text(low: int, high: float) -> str:
    return str(low) if low == high else f"{low} or more" if high == float("inf") else f"{low} to {high}"
