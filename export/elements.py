"""Answers element by element, as every gate compares them. NumPy only, so that it also runs where ONNX does not."""

from collections.abc import Mapping

import numpy as np

from rfserve.export.spec.tensor import Array

# FP32 itself resolves a result no finer than this many units in the last place after a different order of sums.
ULPS = 2


def not_finite(outputs: Mapping[str, Array]) -> list[str]:
    """The outputs that hold NaN or infinity: `compare` takes a network that answers nothing else for a faithful one."""
    return [name for name, array in outputs.items() if not np.isfinite(array).all()]


def compare(got: Array, expected: Array, tolerance: Array) -> tuple[float, float, bool]:
    """The worst difference, what was allowed there, and whether anything exceeds it. NaN equals NaN only."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf"), float(np.min(tolerance)), True
    a, b = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    difference = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    ulp = np.spacing(np.abs(np.nan_to_num(expected, posinf=0, neginf=0)).astype(np.float32)).astype(np.float64)
    allowed = np.broadcast_to(tolerance, b.shape) + ULPS * ulp
    if difference.size == 0:
        return 0.0, float(np.min(tolerance)), False
    where = np.unravel_index(int(np.argmax(difference / allowed)), difference.shape)
    return float(difference[where]), float(allowed[where]), bool(difference[where] > allowed[where])
