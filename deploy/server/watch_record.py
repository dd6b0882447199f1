"""What the watchdog knows of one model: written by the thread that watches it, read by whoever shows it."""

from collections import Counter
from dataclasses import dataclass, field

from rfserve.server.canary import Outcome


@dataclass
class WatchRecord:
    """The last canary of a model and everything counted since the watch began. Times are Unix seconds."""

    model: str
    outcome: Outcome | None = None
    reason: str = ""
    latency_s: float | None = None
    last_success_s: float | None = None
    canaries: Counter[Outcome] = field(default_factory=Counter)
    stubs_lost: int = 0
    mends: int = 0
    failed_mends: int = 0

    @property
    def up(self) -> bool:
        """Whether the last canary was answered, or refused by a model that is merely busy."""
        return self.outcome in {Outcome.OK, Outcome.BUSY}
