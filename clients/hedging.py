"""When a second server is asked, because the first is slow; for the asynchronous client."""

import threading
from collections import deque
from dataclasses import dataclass

from rfserve.clients.errors import ClientError

REMEMBERED = 200
NEEDED = 20


@dataclass(frozen=True, kw_only=True)
class Hedging:
    """Ask again after `after_s` without an answer, another server if there is one, and take what comes first.

    None takes the 95th percentile of the last 200 answers' times, once there were 20 (Dean and Barroso, "The Tail at
    Scale", 2013). The slower request is not cancelled: see `rfserve.clients.late_calls`. Hedges count against the
    client's `retry_limit`. They help where requests are slow for reasons of one server, and harm where all are slow
    because there is too much to do.
    """

    after_s: float | None = None

    def __post_init__(self) -> None:
        if self.after_s is not None and not 0 < self.after_s < float("inf"):
            raise ClientError(f"hedging: got {self.after_s} s; expected above 0, or None")


class HedgeDelay:
    """The delay of a `Hedging`, from what was observed."""

    def __init__(self, hedging: Hedging) -> None:
        self._hedging = hedging
        self._answers_s: deque[float] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def observe(self, answer_s: float) -> None:
        """An answer took so long."""
        with self._lock:
            self._answers_s.append(answer_s)

    @property
    def after_s(self) -> float | None:
        """When to hedge, in seconds after the request; None for not at all."""
        if self._hedging.after_s is not None:
            return self._hedging.after_s
        with self._lock:
            ordered = sorted(self._answers_s)
        return ordered[int(0.95 * len(ordered))] if len(ordered) >= NEEDED else None
