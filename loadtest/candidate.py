"""One way to run a model: what `tune` varies in the configuration that a server has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from rfserve.export.spec.model import FEWEST_INSTANCES
from rfserve.loadtest.errors import LoadTestError

THREADS = "intra_op_thread_count"
LIMITS = ("default_queue_policy", "priority_queue_policy", "priority_levels", "default_priority_level")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Instances, ONNX Runtime threads of each, the batcher's wait in µs, and how many rows it joins at most.

    The last is its only preferred size: without a wait, Triton sends what waits up to the largest preferred size, and
    smaller ones would only cut that short.
    """

    instances: int
    threads: int
    delay_us: int
    joined_rows: int

    def __post_init__(self) -> None:
        if min(self.instances, self.threads, self.joined_rows) < 1 or self.delay_us < 0:
            raise LoadTestError(f"got {self}; expected 1 or more of each, and a delay from 0 on")

    @classmethod
    def of(cls, config: Any) -> "Candidate":
        """What a `ModelConfig` says; `LoadTestError` for one of another kind than the exporter writes."""
        groups = list(config.instance_group)
        if len(groups) != 1 or config.backend != "onnxruntime":
            raise LoadTestError(
                f"{config.name}: got backend {config.backend!r} with {len(groups)} instance groups; expected "
                "onnxruntime with one"
            )
        batching = config.dynamic_batching
        return cls(
            instances=groups[0].count,
            threads=max(1, int(config.parameters[THREADS].string_value or 1)),
            delay_us=batching.max_queue_delay_microseconds,
            joined_rows=max(batching.preferred_batch_size, default=config.max_batch_size),
        )

    @property
    def keeps_limits(self) -> bool:
        """Whether the queue's limits go with it: Triton 24.10 has neither one instance nor a wait beside them.

        See `Placement` of the specs. Without limits it is measured, and never written.
        """
        return self.instances >= FEWEST_INSTANCES and self.delay_us == 0

    def applied(self, config: Any) -> Any:
        """A `ModelConfig` that runs the model this way, and is otherwise the same."""
        changed = type(config)()
        changed.CopyFrom(config)
        if self == Candidate.of(config):
            return changed
        if self.joined_rows > config.max_batch_size:
            raise LoadTestError(
                f"{config.name}: got {self.joined_rows} rows; expected 1 to {config.max_batch_size}, the largest batch"
            )
        changed.instance_group[0].count = self.instances
        changed.parameters[THREADS].string_value = str(self.threads)
        batching = changed.dynamic_batching
        batching.max_queue_delay_microseconds = self.delay_us
        # As the exporter writes it.
        batching.preferred_batch_size[:] = [self.joined_rows] if self.joined_rows < config.max_batch_size else []
        if not self.keeps_limits:
            for name in LIMITS:
                batching.ClearField(name)
        return changed

    def __str__(self) -> str:
        wait = f", {self.delay_us} us wait" if self.delay_us else ""
        return f"{self.instances} instances x {self.threads} threads, {self.joined_rows} rows{wait}"


def sweep(
    present: Candidate,
    largest: int,
    *,
    instances: Sequence[int] = (),
    threads: Sequence[int] = (),
    delays_us: Sequence[int] = (),
    joined_rows: Sequence[int] = (),
) -> list[Candidate]:
    """Every combination, the present one first; what is not said is varied around it, and the wait not at all."""
    doubled = (present.joined_rows, *(r for r in (2 * present.joined_rows,) if r <= largest))
    combinations = product(
        _distinct(instances or (present.instances, present.instances + 1)),
        _distinct(threads or (present.threads, 2 * present.threads)),
        _distinct(delays_us or (present.delay_us,)),
        _distinct(joined_rows or doubled),
    )
    made = [Candidate(instances=i, threads=t, delay_us=d, joined_rows=r) for i, t, d, r in combinations]
    return [present, *(c for c in made if c != present)]


def _distinct(values: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(values))
