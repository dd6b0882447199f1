"""A served model: a network of its own (`ModelSpec`) or a chain of served models (`EnsembleSpec`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rfserve.export.spec.device import DEVICES, REFERENCES, Budget
from rfserve.export.spec.errors import SpecError, TensorError
from rfserve.export.spec.precision import FP32, PRECISIONS, DriftLimit
from rfserve.export.spec.tensor import Array, Axis, TensorSpec

TARGETS = ("cpu", "gpu")
# The machine that the specs place their models on, for the CPU.
SPEC_CORES = 2
FEWEST_INSTANCES, THREADS_AN_INSTANCE = 2, 4


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a target runs a model: instances, ONNX Runtime threads of each, and the batcher's wait for more requests.

    `joined_rows` is how many rows the batcher joins at most; without it, what the budget has room for (`queueing`).
    Only a placement that was tuned says it, and that one is for the machines it was tuned on.

    Triton 24.10 allows neither one instance nor a delay where a queue has limits. An instance tells the batcher that it
    is about to be free before it is; a batcher that is quicker finds none free and looks again after 500 ms, unless
    another instance or request wakes it (measured: half of the requests that arrived while the only instance was busy).
    And what waited for a delay is merged in a way that leaks a count of free instances for good, so that the model
    becomes slower and slower (triton-inference-server/server#8870).
    """

    instances: int
    intra_op_threads: int
    queue_delay_us: int = 0
    joined_rows: int | None = None

    def __post_init__(self) -> None:
        if self.joined_rows is not None and self.joined_rows < 1:
            raise SpecError(f"placement: got {self.joined_rows} joined rows; expected 1 or more")
        if self.instances < FEWEST_INSTANCES or self.intra_op_threads < 1 or self.queue_delay_us != 0:
            raise SpecError(
                f"placement: got {self}; expected instances from {FEWEST_INSTANCES}, threads from 1, and no delay"
            )

    def on(self, cores: int) -> "Placement":
        """The placement for another number of CPU cores: two instances, from twelve cores on one for every four.

        Threads of one instance shorten each answer, but the second already gains 1.8 times instead of 2; instances
        beside each other lose nothing. From two cores on, all threads together are never more than the cores. A tuned
        placement stays as it is.
        """
        if cores < 1:
            raise SpecError(f"placement: got {cores} cores; expected 1 or more")
        if self.joined_rows is not None:
            return self
        instances = max(FEWEST_INSTANCES, cores // THREADS_AN_INSTANCE)
        return replace(self, instances=instances, intra_op_threads=max(1, cores // instances))


@dataclass(frozen=True, kw_only=True)
class _Served:
    name: str
    summary: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...] = ()
    max_batch_size: int
    # By device.
    budgets: Mapping[str, Budget]
    # Largest absolute difference from eager PyTorch that an export may show, per element of an output.
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        names = [t.name for t in (*self.inputs, *self.outputs)]
        if len(set(names)) != len(names):
            raise SpecError(f"{self.name}: tensor names are not distinct: {names}")
        declared = {a.name for a in self.axes}
        used = {a for t in (*self.inputs, *self.outputs) for a in t.axes if isinstance(a, str)}
        if declared != used:
            raise SpecError(f"{self.name}: axes declared {sorted(declared)}, used {sorted(used)}; expected the same")
        if set(self.budgets) != set(DEVICES):
            raise SpecError(f"{self.name}: budgets for {sorted(self.budgets)}; expected {sorted(DEVICES)}")
        if self.max_batch_size < 1:
            raise SpecError(f"{self.name}: got max_batch_size {self.max_batch_size}; expected at least 1")

    @property
    def bounds(self) -> dict[str, Axis]:
        """The dynamic axes by name."""
        return {a.name: a for a in self.axes}

    @property
    def served_sizes(self) -> dict[str, int]:
        """The sizes of the dynamic axes that clients send and warm-up runs."""
        return {a.name: a.served for a in self.axes}

    def budget(self, target: str) -> Budget:
        """The budget that a target's configuration is made for: that of its reference device."""
        return self.budgets[REFERENCES[target]]

    def input(self, name: str) -> TensorSpec:
        """The input of that name; `SpecError` when there is none."""
        return _named(self.inputs, name, self.name, "input")

    def output(self, name: str) -> TensorSpec:
        """The output of that name; `SpecError` when there is none."""
        return _named(self.outputs, name, self.name, "output")

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Raise `TensorError` unless `arrays` are exactly the inputs, fit, and agree in batch and dynamic sizes."""
        wanted = {t.name for t in self.inputs}
        if set(arrays) != wanted:
            raise TensorError(
                f"{self.name}: got inputs {sorted(arrays)}; expected {sorted(wanted)} "
                f"(missing {sorted(wanted - set(arrays))}, unknown {sorted(set(arrays) - wanted)})"
            )
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            array = arrays[spec.name]
            spec.check(array, self.bounds)
            for index, axis in spec.dynamic_axes().items():
                size, first = sizes.setdefault(axis, (array.shape[index], spec.name))
                if size != array.shape[index]:
                    raise TensorError(
                        f"{self.name}: {spec.name} has {array.shape[index]} {axis}, {first} has {size}; "
                        "expected the same in every input"
                    )
        batch = sizes["batch"][0]
        if not 1 <= batch <= self.max_batch_size:
            raise TensorError(f"{self.name}: got batch {batch}; expected 1 to {self.max_batch_size}; split the request")


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Served):
    """A model with an ONNX graph of its own. Empty `variants` means that there is one size of it."""

    placements: Mapping[str, Placement]
    # What a row costs a target that does nothing else, in ms: the inverse of its saturated rate, with all receivers
    # active. A target that is missing has not been measured.
    row_costs_ms: Mapping[str, float] = field(default_factory=dict)
    # How many rows are worth joining, by target: more of them would make each dearer (`tests/benchmarks/backend.py`). A
    # target that is missing joins what its budget has room for.
    worthwhile_rows: Mapping[str, int] = field(default_factory=dict)
    # Trained weights come from a checkpoint; a front end has none.
    has_weights: bool = True
    variants: tuple[str, ...] = ()
    # The newest that the legacy exporter writes: LayerNormalization and Gelu are operators of their own.
    opset: int = 20
    # How far each precision but FP32 may move an answer; one that is missing is not offered, for the reason given.
    drift_limits: Mapping[str, DriftLimit] = field(default_factory=dict)
    not_offered: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.placements) != set(TARGETS):
            raise SpecError(f"{self.name}: placements for {sorted(self.placements)}; expected {sorted(TARGETS)}")
        if set(self.row_costs_ms) - set(TARGETS) or any(cost <= 0 for cost in self.row_costs_ms.values()):
            raise SpecError(f"{self.name}: got row costs {dict(self.row_costs_ms)}; expected ms above 0 by target")
        worthwhile = self.worthwhile_rows
        if set(worthwhile) - set(TARGETS) or any(not 1 <= r <= self.max_batch_size for r in worthwhile.values()):
            raise SpecError(
                f"{self.name}: got worthwhile rows {dict(worthwhile)}; expected 1 to {self.max_batch_size} by target"
            )
        if self.opset < 14:
            raise SpecError(f"{self.name}: got opset {self.opset}; expected 14 or newer")
        decided = [FP32, *self.drift_limits, *self.not_offered]
        if sorted(decided) != sorted(PRECISIONS):
            raise SpecError(
                f"{self.name}: got drift limits or reasons for {decided[1:]}; expected each of "
                f"{', '.join(PRECISIONS[1:])} once"
            )
        missing = [t.name for t in self.inputs if t.values is None]
        if missing:
            raise SpecError(f"{self.name}: inputs {missing} declare no values, so no example can be made")

    def on_cores(self, target: str, cores: int) -> "ModelSpec":
        """The model on machines of so many CPU cores, which are taken to serve in proportion to them."""
        placement = self.placements[target].on(cores)
        costs = {t: ms * SPEC_CORES / cores if t == target else ms for t, ms in self.row_costs_ms.items()}
        return replace(self.placed(target, placement), row_costs_ms=costs)

    def placed(self, target: str, placement: Placement) -> "ModelSpec":
        """The model with another placement on a target."""
        return replace(self, placements={**self.placements, target: placement})


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an ensemble. The maps go from the step's tensor names to the ensemble's."""

    model: ModelSpec
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec(_Served):
    """Served models in a row, run inside the server so that intermediate tensors never cross the wire."""

    steps: tuple[Step, ...] = field(default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {t.name for t in self.inputs}
        for step in self.steps:
            want = {t.name for t in step.model.inputs}
            if set(step.input_map) != want:
                raise SpecError(
                    f"{self.name}: step {step.model.name} maps {sorted(step.input_map)}; expected {sorted(want)}"
                )
            unknown = set(step.input_map.values()) - known
            if unknown:
                raise SpecError(
                    f"{self.name}: step {step.model.name} reads {sorted(unknown)}, which nothing made before"
                )
            known |= set(step.output_map.values())
        lacking = {t.name for t in self.outputs} - known
        if lacking:
            raise SpecError(f"{self.name}: no step makes {sorted(lacking)}")


Served = ModelSpec | EnsembleSpec


def _named(tensors: tuple[TensorSpec, ...], name: str, model: str, role: str) -> TensorSpec:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise SpecError(f"{model} has no {role} {name!r}; it has {[t.name for t in tensors]}")
