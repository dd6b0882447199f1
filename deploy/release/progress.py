"""What becomes of each pod in a release: a line for people as it happens, a document for machines at the end."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rfserve.export.comparison import Comparison
from rfserve.export.live_check import Checked
from rfserve.export.progress import Report
from rfserve.release.errors import PodError
from rfserve.release.placement import Placement
from rfserve.release.pods import Pod


@dataclass(kw_only=True)
class PodProgress:
    """One pod: what it served before, the seconds of each step, what was checked, and what went wrong.

    `touched` says that it was told to load, `rehearsing` that it may have the version under its rehearsal's name, and
    `restored` whether it was brought back when it had to be.
    """

    pod: Pod
    report: Report
    before: Placement | None = None
    touched: bool = False
    rehearsing: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    checked: Checked | None = None
    comparison: Comparison | None = None
    problem: str = ""
    restored: bool | None = None

    @property
    def known(self) -> Placement:
        """What it served before; `PodError` when it was never looked at."""
        if self.before is None:
            raise PodError(f"{self.pod.name}: it was never looked at")
        return self.before

    @property
    def served_before(self) -> str:
        """The same for people."""
        versions = () if self.before is None else self.before.versions
        return f"version {', '.join(map(str, versions))}" if versions else "no version"

    @contextmanager
    def step(self, name: str, done: str) -> Iterator[None]:
        """Time a step that ends with a check, and say what it has `done` when it has."""
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 3)
        checked = ""
        if self.checked is not None:
            checked = f"; {self.checked.rows} rows at {self.checked.worst_ratio:.2g} of what they may differ by"
        self.say(f"{done} in {self.seconds[name]:.1f} s{checked}")

    def say(self, text: str) -> None:
        """A line that names the pod."""
        self.report(f"{self.pod}: {text}")

    @property
    def shift_m(self) -> Mapping[str, float] | None:
        """How far fixes moved, in metres, when that was compared."""
        if self.comparison is None:
            return None
        drift = self.comparison.drift
        return {"p50": drift.position_p50_m, "p99": drift.position_p99_m, "worst": drift.position_worst_m}

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.pod.name,
            "address": self.pod.address,
            "target": None if self.before is None else self.before.target,
            "served_before": [] if self.before is None else list(self.before.versions),
            "seconds": self.seconds,
            "checked": None if self.checked is None else asdict(self.checked),
            "shift_m": self.shift_m,
            "problem": self.problem or None,
            "restored": self.restored,
        }
