"""Raw samples while they are taken, by one process, of one stream."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(kw_only=True)
class Samples:
    """What became of a stream's requests that were due in its window; times in seconds from the window's start."""

    due_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    scheduled: int = 0
    sent: int = 0
    late: int = 0
    version: str = ""

    def begin(self, due_s: float, sent_s: float, limit_s: float) -> None:
        """A request goes out."""
        self.sent += 1
        self.late += sent_s - due_s > limit_s

    def answered(self, due_s: float, sent_s: float, done_s: float) -> None:
        """It was answered well."""
        self.due_s.append(due_s)
        self.sent_s.append(sent_s)
        self.done_s.append(done_s)

    def summary(self) -> dict[str, Any]:
        """The counts, as Locust's messages can hold them."""
        return {
            "failures": dict(self.failures),
            "scheduled": self.scheduled,
            "sent": self.sent,
            "late": self.late,
            "version": self.version,
        }

    def times_us(self) -> tuple[bytes, bytes, bytes]:
        """Due, sent and done in whole microseconds, as little-endian int64."""
        due, sent, done = (
            np.rint(np.asarray(values, float) * 1e6).astype("<i8").tobytes()
            for values in (self.due_s, self.sent_s, self.done_s)
        )
        return due, sent, done
