"""Which way of running a model serves most within its budget: screen every candidate, then search the best few."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rfserve.loadtest import interval, whole_file
from rfserve.loadtest.candidate import Candidate
from rfserve.loadtest.capacity import Capacity
from rfserve.loadtest.capacity_question import Question
from rfserve.loadtest.measurement import Run
from rfserve.loadtest.plan import Phase, Plan, Stream
from rfserve.loadtest.text_table import lines, number
from rfserve.loadtest.verdict import UNPROVEN

SCHEMA = 1
KIND = "tuning"
SATURATED, RATED = "saturated", "rated"
# Fewer answers are enough for an order of candidates than for a verdict.
SCREENED_PERCENTILE = 95.0
HEAD = ("instances", "threads", "wait us", "rows", "saturated/s", "p95 at rate, ms", "failed", "capacity/s", "")


@dataclass(frozen=True, kw_only=True)
class Screening:
    """One look at a candidate: good answers a second in a closed loop, and p95 and failures at the rate of the spec."""

    saturated_hz: float
    rated_ms: float
    failed: float

    @classmethod
    def of(cls, run: Run) -> "Screening":
        """From a run of `screening_plan`."""
        by_phase = {m.phase: m for m in run.measurements}
        rated = by_phase[RATED]
        return cls(
            saturated_hz=by_phase[SATURATED].goodput_hz,
            rated_ms=rated.latency_ms(SCREENED_PERCENTILE),
            failed=rated.error_rate,
        )


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A candidate with what was measured of it; `problem` says why it could not be served."""

    candidate: Candidate
    screenings: tuple[Screening, ...] = ()
    capacity: Capacity | None = None
    problem: str = ""

    @property
    def saturated_hz(self) -> float:
        """The mean over its looks; 0 when it could not be served."""
        return interval.mean([s.saturated_hz for s in self.screenings]) if self.screenings else 0.0

    @property
    def rated_ms(self) -> float:
        """The mean p95 at the spec's rate; NaN when nothing was answered."""
        return interval.mean([s.rated_ms for s in self.screenings])

    def holds(self, question: Question) -> bool:
        """Whether it is worth a search: at the spec's rate, nearly all are answered within the budget."""
        failed = interval.mean([s.failed for s in self.screenings])
        return self.rated_ms <= question.budget_ms and failed <= question.error_rate

    @property
    def capacity_hz(self) -> float | None:
        """The highest rate that holds the budget; None when it was not searched."""
        return None if self.capacity is None else self.capacity.capacity_hz

    @property
    def is_proven(self) -> bool:
        """Whether that is all it serves; else it serves so much at least, and the search ended for another reason."""
        return self.capacity is not None and self.capacity.exit_code() != UNPROVEN


def screening_plan(question: Question, *, users: int, rate_hz: float, seconds: float) -> Plan:
    """A closed loop that saturates the server, then the rate of the spec; neither is judged."""
    saturated = Stream(model=question.model, users=users, mix=question.mix)
    rated = Stream(model=question.model, rate_hz=rate_hz, mix=question.mix)
    return replace(
        question.plan(rate_hz),
        name=KIND,
        repetitions=1,
        phases=(
            Phase(name=SATURATED, duration_s=seconds, streams=(saturated,)),
            Phase(name=RATED, duration_s=seconds, streams=(rated,)),
        ),
    )


def users(config: Any, candidates: Sequence[Candidate]) -> int:
    """As many as keep every candidate busy, and no more than the queue takes: what is refused is work for nothing."""
    limit = config.dynamic_batching.default_queue_policy.max_queue_size
    busy = max(c.instances * c.joined_rows for c in candidates)
    return int(min(limit + 2, 2 * busy) if limit else 2 * busy)


def finalists(tried: Sequence[Tried], question: Question, count: int) -> list[Candidate]:
    """The present one, and the `count` others that serve most of those that hold the budget at the spec's rate."""
    present, *others = tried
    fit = [t for t in others if t.screenings and t.holds(question)]
    best = sorted(fit, key=lambda t: -t.saturated_hz)[:count]
    return [present.candidate, *(t.candidate for t in best)] if count else []


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """All candidates, the present one first, and which is best: the present one, unless another is beyond noise."""

    question: Question
    resolution: float
    tried: tuple[Tried, ...] = field(default=())

    @property
    def present(self) -> Tried:
        """What the server came with."""
        return self.tried[0]

    @property
    def best(self) -> Tried | None:
        """The one with the highest capacity that can be written; None when that is not known."""
        return self._best([t for t in self.tried if t.candidate.keeps_limits or t is self.present])

    @property
    def best_without_limits(self) -> Tried | None:
        """One that needs the queue's limits gone, when it serves more than the best that has them."""
        found, best = self._best(list(self.tried)), self.best
        return found if found is not best else None

    def _best(self, tried: Sequence[Tried]) -> Tried | None:
        # Others may serve more than was shown; what they are compared with may not.
        if not self.present.is_proven:
            return None
        best = max((t for t in tried if t.capacity is not None), key=lambda t: t.capacity_hz or 0.0)
        present_hz = self.present.capacity_hz or 0.0
        # Rates that are closer than that were not told apart.
        return self.present if (best.capacity_hz or 0.0) <= present_hz * (1 + self.resolution) else best

    def statement(self) -> str:
        """What is best, in a sentence or two."""
        best = self.best
        if self.present.capacity is None:
            return "screened only: nothing was searched, so no configuration is best"
        if best is None:
            return f"which is best is not known; of the present one: {self.present.capacity.statement()}"
        budget = self.question.budget
        if not best.capacity_hz:
            return f"no configuration holds {budget}; the model stays as it is"
        present_hz = self.present.capacity_hz or 0.0
        if best is self.present:
            said = f"the present configuration stays: {best.candidate} serves {best.capacity_hz:g}/s within {budget}, "
            said += f"and none of the others that were searched {self.resolution:.0%} more"
        else:
            said = f"best: {best.candidate} serves {best.capacity_hz:g}/s within {budget}; the present one, "
            said += f"{self.present.candidate}, {present_hz:g}/s"
        without = self.best_without_limits
        if without is not None:
            said += (
                f". Without the queue's limits, {without.candidate} serves {without.capacity_hz:g}/s; it is never "
                "written, because an overloaded server would then refuse nothing"
            )
        return said

    def text(self) -> str:
        """The table and the answer."""
        return "\n".join([*lines(HEAD, [self._row(t) for t in self.tried], words={len(HEAD) - 1}), self.statement()])

    def _row(self, tried: Tried) -> list[str]:
        c, rates = tried.candidate, [s.saturated_hz for s in tried.screenings]
        spread = f" ({number(min(rates))} to {number(max(rates))})" if len(rates) > 1 else ""
        notes = ["present"] if tried is self.present else []
        notes += ["best"] if tried is self.best else []
        notes += [] if c.keeps_limits else ["without the queue's limits"]
        notes += [tried.problem] if tried.problem else []
        capacity_hz = tried.capacity_hz
        return [
            str(c.instances),
            str(c.threads),
            str(c.delay_us),
            str(c.joined_rows),
            f"{number(tried.saturated_hz)}{spread}" if rates else "-",
            number(tried.rated_ms),
            f"{interval.mean([s.failed for s in tried.screenings]):.1%}" if rates else "-",
            "-" if capacity_hz is None else f"{capacity_hz:g}{'' if tried.is_proven else ' or more'}",
            ", ".join(notes),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; what is NaN is None."""
        best = self.best
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "statement": self.statement(),
            "best": None if best is None else asdict(best.candidate),
            **_finite(asdict(self)),
        }

    def write(self, file: Path) -> None:
        """JSON; it appears whole or not at all."""
        whole_file.write(file, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
