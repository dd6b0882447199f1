"""The highest open-loop rate at which a model holds its budget, and the latencies on the way there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rfserve.export.spec import find
from rfserve.loadtest import whole_file
from rfserve.loadtest.capacity_point import Point
from rfserve.loadtest.capacity_question import Question
from rfserve.loadtest.capacity_search import BROKEN, INVALID, Search, bracket, rounded
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Machine, Run
from rfserve.loadtest.plan import Mix
from rfserve.loadtest.verdict import BROKEN as BROKEN_CODE
from rfserve.loadtest.verdict import OK, UNPROVEN

SCHEMA = 1
KIND = "capacity"
LOWEST_SHARE, HIGHEST_TIMES = 0.25, 256.0


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
        whole_file.write(file, json.dumps(document, indent=1, allow_nan=False) + "\n")

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
