"""The highest open-loop rate at which a model holds its budget, and the latencies on the way there."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rfserve.export.spec import DEVICES, Budget, find
from rfserve.loadtest import validity
from rfserve.loadtest.capacity_point import Point
from rfserve.loadtest.capacity_search import BROKEN, INVALID, Search, bracket, rounded
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Machine, Run
from rfserve.loadtest.plan import Mix, Phase, Plan, Stream
from rfserve.loadtest.verdict import BROKEN as BROKEN_CODE
from rfserve.loadtest.verdict import OK, PERCENTILES, UNPROVEN

SCHEMA = 1
KIND = "capacity"
# Answers that fail cost a percentile some of its samples.
SAMPLES_MARGIN = 1.05
# What an answer may take, in budgets, before nobody waits for it.
PATIENCE_BUDGETS, LEAST_PATIENCE_S = 3.0, 2.0
# What goes by between two windows beside the warm-up.
BETWEEN_S = 0.5
LOWEST_SHARE, HIGHEST_TIMES = 0.25, 256.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: `model` holds a percentile within `budget_ms`, with no more than `error_rate` failing.

    Each rate is measured in `repetitions` windows of `window_s` or, where the percentile needs more samples, longer.
    """

    model: str
    device: str
    percentile: float
    budget_ms: float
    error_rate: float
    repetitions: int = 5
    window_s: float = 3.0
    warm_up_s: float = 1.0
    seed: int = 1
    processes: int = 1
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        find(self.model)
        if self.figure not in PERCENTILES:
            raise LoadTestError(f"got percentile {self.percentile:g}; expected one of {', '.join(PERCENTILES)}")
        if not (0 < self.budget_ms < math.inf and 0 < self.error_rate < 1):
            raise LoadTestError(
                f"{self.model}: got {self.budget_ms:g} ms with {self.error_rate:g} failing; expected above 0, and a "
                "share below 1"
            )
        if self.repetitions < 2:
            raise LoadTestError(f"got {self.repetitions} repetitions; expected two or more: one has no interval")
        # Refuses what no plan may be.
        self.plan(1.0)

    @property
    def figure(self) -> str:
        """What the verdict calls it."""
        return f"p{self.percentile:g}_ms"

    @property
    def budget(self) -> str:
        """As text."""
        return f"p{self.percentile:g} <= {self.budget_ms:g} ms"

    def duration_s(self, rate_hz: float) -> float:
        """Of each window: long enough for the percentile, and for the error rate when nothing fails."""
        in_all, in_each = validity.samples_needed(self.percentile)
        # Clopper and Pearson: of so many tries without a failure, the upper end of the interval is the error rate.
        for_errors = math.log(0.025) / math.log1p(-self.error_rate)
        answers = SAMPLES_MARGIN * max(in_all / self.repetitions, for_errors / self.repetitions, in_each)
        return max(self.window_s, math.ceil(10 * answers / rate_hz) / 10)

    def plan(self, rate_hz: float) -> Plan:
        """What measures one rate."""
        return Plan(
            name=KIND,
            device=self.device,
            phases=(
                Phase(
                    name=f"{rate_hz:g}/s",
                    duration_s=self.duration_s(rate_hz),
                    streams=(Stream(model=self.model, rate_hz=rate_hz, mix=self.mix),),
                ),
            ),
            repetitions=self.repetitions,
            warm_up_s=self.warm_up_s,
            seed=self.seed,
            processes=self.processes,
            timeout_s=max(LEAST_PATIENCE_S, PATIENCE_BUDGETS * self.budget_ms / 1e3),
            budgets={
                self.model: {self.figure: self.budget_ms, "error_rate": self.error_rate, "rate_hz": rate_hz},
            },
            figures=(self.figure, "error_rate", "throughput_hz"),
        )

    def cost_s(self, rate_hz: float) -> float:
        """How long a rate takes at most: the last answers of every window may take their whole time."""
        plan = self.plan(rate_hz)
        each_s = BETWEEN_S + plan.warm_up_s + plan.phases[0].duration_s + plan.timeout_s
        return plan.repetitions * each_s


def question(model: str, device: str, *, percentile: float = 99.0, budget_ms: float | None = None) -> Question:
    """What the spec promises of a model on a device, or with another budget; `LoadTestError` for an unknown device."""
    if device not in DEVICES:
        raise LoadTestError(f"got device {device!r}; expected one of {', '.join(DEVICES)}")
    promised: Budget = find(model).budgets[device]
    within_ms = getattr(promised, f"p{percentile:g}_ms", math.nan) if budget_ms is None else budget_ms
    return Question(
        model=model, device=device, percentile=percentile, budget_ms=within_ms, error_rate=promised.error_rate
    )


def search(
    model: str,
    device: str,
    *,
    resolution: float,
    start_hz: float | None = None,
    lowest_hz: float | None = None,
    highest_hz: float | None = None,
) -> Search:
    """From the rate that the spec promises on, and as far down and up as is usual, where nothing else is said."""
    start = find(model).budgets[device].rate_hz if start_hz is None else start_hz
    return Search(
        start_hz=start,
        lowest_hz=rounded(LOWEST_SHARE * start) if lowest_hz is None else lowest_hz,
        highest_hz=rounded(HIGHEST_TIMES * start) if highest_hz is None else highest_hz,
        resolution=resolution,
    )


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What was asked, what was measured so far, and on which server and machine; `started` as in a `Run`."""

    question: Question
    search: Search
    points: tuple[Point, ...] = ()
    started: str = ""
    url: str = ""
    machine: Machine | None = None
    version: str = ""
    precision: str = ""

    @property
    def outcomes(self) -> dict[float, str]:
        """What each rate came to."""
        return {p.rate_hz: p.outcome for p in self.points}

    @property
    def next_hz(self) -> float | None:
        """The rate to measure next; None when the answer is there."""
        return self.search.next_hz(self.outcomes)

    @property
    def most_s(self) -> float:
        """How long the rest takes at most."""
        return self.search.most_s(self.outcomes, self.question.cost_s)

    @property
    def capacity_hz(self) -> float:
        """The highest rate that holds the budget; 0 when none does."""
        return bracket(self.outcomes)[0] or 0.0

    @property
    def above(self) -> Point | None:
        """The lowest rate above it that does not."""
        above = bracket(self.outcomes)[1]
        return next((p for p in self.points if p.rate_hz == above), None)

    def with_run(self, run: Run) -> "Capacity":
        """With one more point."""
        first = run.measurements[0]
        return replace(
            self,
            points=tuple(sorted((*self.points, Point.of(run)), key=lambda p: p.rate_hz)),
            started=self.started or run.started,
            url=run.url,
            machine=run.machine,
            version=first.version or self.version,
            precision=first.precision or self.precision,
        )

    def exit_code(self) -> int:
        """0 when the capacity is known, 1 when no rate holds the budget, 3 when what was measured says less."""
        above = self.above
        if self.next_hz is not None or (above is not None and above.outcome == INVALID):
            return UNPROVEN
        if self.capacity_hz:
            return OK
        return BROKEN_CODE if any(p.outcome == BROKEN for p in self.points) else UNPROVEN

    def statement(self) -> str:
        """The answer, in a sentence or two."""
        model, budget, above = self.question.model, self.question.budget, self.above
        held = f"{model} holds {budget} at {self.capacity_hz:g}/s"
        why = "; ".join(above.reasons) if above is not None else ""
        if not self.points:
            return "nothing was measured yet"
        if self.next_hz is not None:
            known = f"{held}, and " if self.capacity_hz else ""
            return f"unfinished: {known}{self.next_hz:g}/s comes next; the same command with --resume goes on"
        if above is not None and above.outcome == INVALID:
            known = f"{held} at least" if self.capacity_hz else f"nothing is known of {model}"
            return f"{known}: at {above.rate_hz:g}/s the load generator was the bottleneck, and the search ends: {why}"
        if not self.capacity_hz and above is not None:
            word = "does not hold" if above.outcome == BROKEN else "is not shown to hold"
            return f"capacity 0: {model} {word} {budget} at {above.rate_hz:g}/s, the lowest rate that was tried: {why}"
        if above is None:
            return f"{held}, the highest rate that was tried"
        word = "it does not" if above.outcome == BROKEN else "that is not decided"
        return f"{held}; at {above.rate_hz:g}/s {word}: {why}"

    def write(self, file: Path) -> None:
        """JSON; it appears whole or not at all."""
        document = {
            "schema": SCHEMA,
            "kind": KIND,
            "capacity_hz": self.capacity_hz,
            "statement": self.statement(),
            **asdict(self),
        }
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
            beside.replace(file)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise LoadTestError(f"cannot write {file}: {error}") from error

    @classmethod
    def read(cls, file: Path) -> "Capacity":
        """As `write` left it; `LoadTestError` for anything else."""
        try:
            document: dict[str, Any] = json.loads(file.read_text())
            if (document["kind"], document["schema"]) != (KIND, SCHEMA):
                raise LoadTestError(f"{file}: got {document['kind']} {document['schema']}; expected {KIND} {SCHEMA}")
            machine = document["machine"]
            return cls(
                question=_question(document["question"]),
                search=Search(**document["search"]),
                points=tuple(Point.from_dict(p) for p in document["points"]),
                machine=None if machine is None else Machine(**machine),
                **{name: document[name] for name in ("started", "url", "version", "precision")},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadTestError(f"{file}: no capacity: {type(error).__name__}: {error}") from error


def _question(document: Mapping[str, Any]) -> Question:
    mix: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in document["mix"].items()}
    return Question(**{**document, "mix": Mix(**mix)})
