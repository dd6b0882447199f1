"""A fix with what it was made from: all that an output may tell."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.clients.plain_text import one_line


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
        return [one_line(o.name) for o in self.observations]

    @property
    def remarks(self) -> list[str]:
        """The note, and what whoever uses the fix has to know of it, each on a line of its own."""
        note = one_line(self.note)
        return [*([note] if note else []), *(f"{what}: {why}" for what, why in self.fix.caveats)]
