"""What was measured at one rate: the figures of each repetition, and whether the budget held."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rfserve.loadtest import interval, validity, verdict
from rfserve.loadtest.capacity_search import BROKEN, HOLDS, INVALID, UNDECIDED
from rfserve.loadtest.measurement import Run
from rfserve.loadtest.repetitions import failures
from rfserve.loadtest.verdict import PERCENTILES


@dataclass(frozen=True, kw_only=True)
class Point:
    """One rate. `latency_ms` (by p50_ms, p95_ms, p99_ms) and `goodput_hz` hold a figure of each repetition.

    A repetition that nothing was answered in has no latencies. `server` holds means over the repetitions: queue_ms,
    compute_ms, network_ms and mean_batch; it is empty when the server said nothing.
    """

    rate_hz: float
    outcome: str
    reasons: tuple[str, ...]
    window_s: float
    sent: int
    answered: int
    late: int
    failures: Mapping[str, int]
    latency_ms: Mapping[str, tuple[float, ...]]
    goodput_hz: tuple[float, ...]
    cpu_share: float
    server: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> "Point":
        """The point that a run of one phase of one open-loop stream measured; `LoadTestError` for no such run."""
        (judged,) = verdict.judge(run)
        measurements = run.measurements
        problems = validity.problems(measurements)
        outcome = {verdict.PASS: HOLDS, verdict.FAIL: BROKEN}.get(judged.outcome, UNDECIDED)
        answered = [m for m in measurements if m.answered]
        splits = [m.server for m in measurements if m.server is not None]
        names = ("queue_ms", "compute_ms", "network_ms", "mean_batch") if splits else ()
        return cls(
            rate_hz=float(measurements[0].target_rate_hz or 0.0),
            outcome=INVALID if problems else outcome,
            reasons=tuple(problems) or judged.reasons,
            window_s=measurements[0].duration_s,
            sent=sum(m.sent for m in measurements),
            answered=sum(m.answered for m in measurements),
            late=sum(m.late for m in measurements),
            failures=dict(failures(measurements)),
            latency_ms={name: tuple(round(m.latency_ms(p), 3) for m in answered) for name, p in PERCENTILES.items()},
            goodput_hz=tuple(round(m.goodput_hz, 3) for m in measurements),
            cpu_share=round(max(m.generator.cpu_share for m in measurements), 3),
            server={n: round(interval.mean([getattr(s, n) for s in splits]), 3) for n in names},
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Point":
        """From the JSON of `to_dict`."""
        fields = dict(document)
        latency_ms = {name: tuple(values) for name, values in fields.pop("latency_ms").items()}
        lists: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ("reasons", "goodput_hz")}
        return cls(**fields, **lists, latency_ms=latency_ms)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def mean_ms(self, figure: str) -> float:
        """The mean of a percentile over the repetitions; NaN when nothing was answered."""
        return interval.mean(self.latency_ms[figure])

    def spread_ms(self, figure: str) -> tuple[float, float]:
        """The lowest and the highest of the repetitions; NaN when nothing was answered."""
        values = self.latency_ms[figure]
        return (min(values), max(values)) if values else (math.nan, math.nan)

    def interval_ms(self, figure: str) -> tuple[float, float]:
        """The 95 % interval that decided; NaN for fewer than two repetitions."""
        return interval.of_mean(self.latency_ms[figure])

    def has_samples_for(self, figure: str) -> bool:
        """Whether there are as many answers as the percentile needs."""
        return self.answered >= validity.samples_needed(PERCENTILES[figure])[0]
