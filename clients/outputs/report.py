"""A fix with what it was made from: all that an output may tell."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """`truth` is (latitude, longitude) in degrees where the emitter is known to be; `made_ns` UTC, in ns since 1970."""

    fix: Fix
    observations: Sequence[Observation]
    confidence: float = 0.95
    truth: tuple[float, float] | None = None
    note: str = ""
    made_ns: int = field(default_factory=time.time_ns)

    @property
    def start_ns(self) -> int | None:
        """When the first sample was taken; None when no recording says."""
        return min((o.start_ns for o in self.observations if o.start_ns is not None), default=None)

    @property
    def names(self) -> list[str]:
        """The receivers' names on one line, without what a terminal or a spreadsheet would obey."""
        shown = ("".join(c if c.isprintable() else " " for c in o.name) for o in self.observations)
        return [" ".join(name.split()) for name in shown]


def utc_text(at_ns: int, digits: int = 3) -> str:
    """A time in ns since 1970 as RFC 3339 in UTC; what `digits` leaves out is cut, not rounded."""
    whole = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{at_ns % 1_000_000_000:09d}"[: len(whole) + 1 + digits] + "Z"
