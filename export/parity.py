"""The gate: every element of every output of ONNX Runtime against eager PyTorch, over sizes, masks and orders."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from rfserve.export import onnx_file
from rfserve.export.elements import compare, not_finite
from rfserve.export.errors import ParityError
from rfserve.export.scaling import Moved
from rfserve.export.spec import ModelSpec, example
from rfserve.export.spec.tensor import Array

if TYPE_CHECKING:
    from torch import nn

BATCHES = (1, 2, 3, 7)
RECEIVERS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The worst element of one output in one case: |got - expected| and what was allowed there."""

    case: str
    output: str
    difference: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Difference as a multiple of what is allowed."""
        return self.difference / self.allowed


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the gate measured: the number of cases, and the worst absolute difference of each output."""

    cases: int
    worst: Mapping[str, float]
    failures: tuple[Difference, ...] = field(default=())

    def require(self, name: str) -> None:
        """`ParityError` that lists every case that failed."""
        if self.failures:
            listed = "; ".join(
                f"{f.output} at {f.case}: differs by {f.difference:.3g}, allowed {f.allowed:.3g}" for f in self.failures
            )
            raise ParityError(
                f"{name}: ONNX Runtime differs from eager PyTorch {len(self.failures)} times in {self.cases} cases: "
                f"{listed}. Nothing was published; look for values frozen by tracing"
            )


def cases(spec: ModelSpec) -> Iterator[tuple[str, dict[str, Array]]]:
    """Named inputs over batch {1, 2, 3, 7, max} and receivers {1, 2, 3, served, max}; new lengths, ids and orders."""
    rng = np.random.default_rng(1)
    axes = spec.bounds
    slots = axes.get("receivers")
    receivers = [0] if slots is None else sorted({*RECEIVERS, slots.served, slots.maximum})
    lengths = [a for a in spec.axes if not a.padded]
    for seed, (batch, count) in enumerate((b, r) for b in (*BATCHES, spec.max_batch_size) for r in receivers):
        # Long windows at small batches only: at the greatest batch they would cost gigabytes and show nothing more.
        sizes = {
            a.name: a.served if batch > max(BATCHES) else int(rng.integers(a.minimum, 2 * a.served + 1))
            for a in lengths
        }
        if count:
            sizes["receivers"] = count
        inputs = example(spec, batch=batch, sizes=sizes, seed=seed)
        if count:
            disorder(spec, inputs, rng)
        yield ", ".join([f"batch {batch}", *(f"{v} {k}" for k, v in sizes.items())]), inputs


def disorder(spec: ModelSpec, inputs: dict[str, Array], rng: np.random.Generator) -> None:
    """Shuffle the receivers of every row, and put garbage (NaN, ids out of range) into the padding."""
    mask = inputs["mask"]
    order = rng.permuted(np.broadcast_to(np.arange(mask.shape[1]), mask.shape), axis=1)
    for tensor in spec.inputs:
        if "receivers" not in tensor.axes:
            continue
        array = inputs[tensor.name]
        index = order.reshape(*order.shape, *([1] * (array.ndim - 2)))
        inputs[tensor.name] = np.take_along_axis(array, index, axis=1)
    padding = ~np.asarray(inputs["mask"], bool)
    for tensor in spec.inputs:
        if "receivers" in tensor.axes and tensor.name != "mask":
            inputs[tensor.name][padding] = np.nan if tensor.dtype.numpy.kind == "f" else 1_000_000


def measure(
    module: "nn.Module",
    session: onnxruntime.InferenceSession,
    spec: ModelSpec,
    *,
    units: Mapping[str, Array] | None = None,
    moved: Moved = dict,
) -> Parity:
    """Run every case through both.

    `moved` takes the spec's examples to where the network was trained, for one that knows a single place.

    `units` gives, for an output, the physical size of one network unit per column: the spec's tolerance is meant in
    network units, so a scaling to metres does not loosen or tighten it.

    `ParityError` at once when the module itself answers a number that is not finite, as every row of a case is valid.
    """
    worst: dict[str, float] = {t.name: 0.0 for t in spec.outputs}
    failures = []
    count = 0
    for case, given in cases(spec):
        count += 1
        inputs = moved(given)
        expected = onnx_file.run_eager(module, spec, inputs)
        if broken := not_finite(expected):
            raise ParityError(
                f"{spec.name}: eager PyTorch itself answers {' and '.join(broken)} that are not finite to finite "
                f"inputs, at {case}. Nothing was published; look for a BatchNorm with a running_var below 0 and for "
                "weights that overflow, and give a checkpoint that has neither"
            )
        got = onnx_file.run_session(session, inputs)
        for tensor in spec.outputs:
            unit = np.asarray((units or {}).get(tensor.name, 1.0), np.float64)
            found = compare(got[tensor.name], expected[tensor.name], spec.tolerance * unit)
            worst[tensor.name] = max(worst[tensor.name], found[0])
            if found[2]:
                failures.append(Difference(case=case, output=tensor.name, difference=found[0], allowed=found[1]))
    return Parity(cases=count, worst=worst, failures=tuple(failures))
