"""How long a request may wait in the server, and how many may: derived from a model's budget and what a row costs.

A target's p99 budget B, that of its reference device, is split. A batch may run for `EXECUTION_SHARE` of it and a
request may wait for `QUEUE_SHARE`; what is left is for the wire, the server's other threads, and what else runs on the
machine. A row costs s, and k instances share the cores, so that a batch of P rows takes k P s:

    rows of a batch that the batcher puts together   P = max(1, floor(EXECUTION_SHARE B / (k s))), or fewer where more
                                                         are not worth it (`worthwhile_rows`)
    time-out of a request that waits                 T = QUEUE_SHARE B
    requests that may wait                           N = max(`CLIENT_CONCURRENCY`, floor(T / s))

A full queue of single requests is empty after N s <= T, so what is admitted is answered within T + k P s <= B, and what
cannot be is refused at once ("Exceeds maximum queue size"). N is not less than what a client keeps in flight, because
requests that come together are all in the queue before the batcher hands the first to an instance, free as it may be.
When the server is slower than s says, because other models run on the same cores, say, or requests have many rows, T
still holds: whoever waited longer is refused ("Request timeout expired"). Where s has not been measured, N is
`UNMEASURED_SIZE`, P the largest batch, and T alone keeps the budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from rfserve.export.spec.errors import SpecError
from rfserve.export.spec.model import ModelSpec

EXECUTION_SHARE = 0.25
QUEUE_SHARE = 0.5
UNMEASURED_SIZE = 128
# What a client keeps in flight unless it is told otherwise.
CLIENT_CONCURRENCY = 4
URGENT_SIZE = 8
BULK_SIZE = 128
PATIENT_TIMEOUT_MS = 30_000.0
# Triton's words for a request that was refused for want of room or time; its status is that of a server that is away.
REFUSAL_TEXTS = ("Exceeds maximum queue size", "Request timeout expired")


class Priority(IntEnum):
    """A request's `priority` on the wire; lower goes first, and 0 means `NORMAL`.

    `URGENT` is for what must get through an overload: canaries, and checks of a version. `BULK` is for work that nobody
    waits for: it takes what the others leave, and may wait much longer. Each has a queue of its own. Triton hands an
    ensemble's priority, and its time-out, on to every step.
    """

    URGENT = 1
    NORMAL = 2
    BULK = 3


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """Who may wait for an instance: how long, and how many requests of one priority."""

    timeout_ms: float
    size: int

    def __post_init__(self) -> None:
        if self.timeout_ms <= 0 or self.size < 1:
            raise SpecError(f"queue: got {self.timeout_ms} ms, {self.size} requests; expected both above 0")


def largest_formed_batch(spec: ModelSpec, target: str) -> int:
    """P, or what the placement says: rows that the batcher joins at most. A request may still hold `max_batch_size`."""
    tuned = spec.placements[target].joined_rows
    if tuned is not None:
        return min(spec.max_batch_size, tuned)
    most = spec.worthwhile_rows.get(target, spec.max_batch_size)
    row_ms = spec.row_costs_ms.get(target)
    if row_ms is None:
        return most
    alone_ms = spec.placements[target].instances * row_ms
    return min(most, max(1, int(EXECUTION_SHARE * spec.budget(target).p99_ms / alone_ms)))


def queue_limits(spec: ModelSpec, target: str) -> Mapping[Priority, QueueLimits]:
    """T and N of every priority.

    Urgent requests overtake, so that their time-out need not keep the budget, and a check gets its answer on a machine
    that is slow. Bulk requests have time.
    """
    timeout_ms = QUEUE_SHARE * spec.budget(target).p99_ms
    row_ms = spec.row_costs_ms.get(target)
    size = UNMEASURED_SIZE if row_ms is None else max(CLIENT_CONCURRENCY, int(timeout_ms / row_ms))
    patient_ms = max(timeout_ms, PATIENT_TIMEOUT_MS)
    return {
        Priority.URGENT: QueueLimits(timeout_ms=patient_ms, size=URGENT_SIZE),
        Priority.NORMAL: QueueLimits(timeout_ms=timeout_ms, size=size),
        Priority.BULK: QueueLimits(timeout_ms=patient_ms, size=BULK_SIZE),
    }
