"""Raw samples while they are taken, by one process, of one stream."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rfserve.export.spec.tensor import Array


@dataclass(kw_only=True)
class Samples:
    """What became of a stream's requests that were due in its window; times in seconds from the window's start.

    `due_s`, `sent_s` and `done_s` are of those that were answered well, the others of all.
    """

    due_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    began_due_s: list[float] = field(default_factory=list)
    late_due_s: list[float] = field(default_factory=list)
    failed_due_s: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    version: str = ""

    def begin(self, due_s: float, sent_s: float, limit_s: float) -> None:
        """A request goes out."""
        self.began_due_s.append(due_s)
        if sent_s - due_s > limit_s:
            self.late_due_s.append(due_s)

    def answered(self, due_s: float, sent_s: float, done_s: float) -> None:
        """It was answered well."""
        self.due_s.append(due_s)
        self.sent_s.append(sent_s)
        self.done_s.append(done_s)

    def failed(self, due_s: float, reason: str) -> None:
        """It was not."""
        self.failed_due_s.append(due_s)
        self.reasons.append(reason)

    def give_up(self, reason: str) -> None:
        """What was sent and has no end by now failed."""
        open_due_s = Counter(self.began_due_s) - Counter(self.due_s) - Counter(self.failed_due_s)
        for due_s in open_due_s.elements():
            self.failed(due_s, reason)

    def counts(self) -> dict[str, Any]:
        """How many were sent, late and failed."""
        return {"sent": len(self.began_due_s), "late": len(self.late_due_s), "failures": dict(Counter(self.reasons))}

    def times_s(self) -> tuple[Array, Array, Array]:
        """Due, sent and done of those that were answered well, by when they were due: float64 (answered,) each."""
        due, sent, done = (np.asarray(values, float) for values in (self.due_s, self.sent_s, self.done_s))
        ascending = np.argsort(due, kind="stable")
        return due[ascending], sent[ascending], done[ascending]

    def batches(self, edges_s: Array) -> Iterator["Samples"]:
        """What was due between each two edges, its times counted from the first of them."""
        for begin, end in zip(edges_s[:-1].tolist(), edges_s[1:].tolist(), strict=True):
            part = Samples(version=self.version)
            for due, sent, done in zip(self.due_s, self.sent_s, self.done_s, strict=True):
                if begin <= due < end:
                    part.answered(due - begin, sent - begin, done - begin)
            for due, reason in zip(self.failed_due_s, self.reasons, strict=True):
                if begin <= due < end:
                    part.failed(due - begin, reason)
            part.began_due_s = [due - begin for due in self.began_due_s if begin <= due < end]
            part.late_due_s = [due - begin for due in self.late_due_s if begin <= due < end]
            yield part
