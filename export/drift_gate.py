"""What a graph of another precision has to pass: how far it moves fixes, in metres and per cent of sigma."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from rfserve.export import onnx_file
from rfserve.export.drift import Drift
from rfserve.export.scaling import Moved
from rfserve.export.scene import scenes
from rfserve.export.spec import ModelSpec
from rfserve.export.spec.precision import DriftLimit
from rfserve.export.spec.tensor import Array

LIMITED = ("position_p99_m", "position_worst_m", "sigma_p99_percent", "sigma_worst_percent")
SEED = 1
BATCHES = 28
# Every batch holds a neighbour that another row must not notice: one not finite, or far beyond any recording.
BATCH = 8
HOSTILE_FACTOR = 1e4


class Gate:
    """Scenes in batches, and what the FP32 graph answers for them.

    `moved` takes a scene to where the network was trained: one that knows a single place gives all others a sigma that
    is only their distance from it, whatever its weights.
    """

    def __init__(self, spec: ModelSpec, single: Path, *, moved: Moved = dict, batches: int = BATCHES) -> None:
        self.single = onnx_file.open_session(single)
        self._batches = _batches(spec, batches, moved)

    @cached_property
    def _expected(self) -> list[dict[str, Array]]:
        return [_answer(self.single, *batch) for batch in self._batches]

    def drift(self, session: onnxruntime.InferenceSession, *, batches: int | None = None) -> Drift:
        """How far a graph's answers lie from FP32's, for rows among hostile neighbours; of the first `batches` only."""
        got = [_answer(session, *batch) for batch in self._batches[:batches]]
        return Drift.between(_joined(self._expected[:batches]), _joined(got))


def _batches(spec: ModelSpec, count: int, moved: Moved) -> list[tuple[dict[str, Array], Array]]:
    """Inputs of 8 rows, one of them hostile, and which rows' answers do not count, (8, 1) BOOL.

    A row that is not finite counts: its answer has to be NaN. For one that is huge no precision has to agree.
    """
    rows = scenes(spec, count * BATCH, seed=SEED, moved=moved)
    found = []
    for number in range(count):
        batch = {n: a[number * BATCH : (number + 1) * BATCH].copy() for n, a in rows.items()}
        signal, row, huge = batch[spec.inputs[0].name], number % BATCH, number % 2 == 0
        signal[row] = signal[row] * HOSTILE_FACTOR if huge else np.nan
        found.append((batch, huge & (np.arange(BATCH)[:, None] == row)))
    return found


def _answer(session: onnxruntime.InferenceSession, inputs: Mapping[str, Array], ignored: Array) -> dict[str, Array]:
    answer = onnx_file.run_session(session, inputs)
    return {name: np.where(ignored, np.nan, array) for name, array in answer.items()}


def exceeded(drift: Drift, limit: DriftLimit) -> list[str]:
    """Every figure that is over its limit, in words."""
    return [
        f"{name} is {getattr(drift, name):.3g}, allowed {getattr(limit, name):g}"
        for name in LIMITED
        if not getattr(drift, name) <= getattr(limit, name)
    ]


def _joined(answers: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
