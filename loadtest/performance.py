"""How fast each model is by each way of running it: kept figures of one kind of machine, and the README's table."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rfserve.loadtest import whole_file
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Machine

SCHEMA = 1
KIND = "performance"
# What is measured of a single request, and what it is called in the table.
EAGER, LOOP, DIRECT, INSTANCE, TRITON = "eager", "heimdall_loop", "onnxruntime", "onnxruntime_instance", "triton"
WAYS = {
    LOOP: "Heimdall's own loop",
    EAGER: "eager PyTorch",
    DIRECT: "ONNX Runtime, all cores",
    INSTANCE: "ONNX Runtime, one core",
    TRITON: "Triton, round trip",
}
# What a figure depends on besides rfserve itself.
TOOLS = ("torch", "onnxruntime", "triton")
BEGIN = "<!-- performance: written by `rfserve-loadtest table --write README.md` -->"
END = "<!-- end of performance -->"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure of several rounds: their median, and the lowest and highest of them."""

    p50: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Iterable[float]) -> "Spread":
        """The spread of at least one round."""
        values = list(rounds)
        return cls(p50=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model in one precision, every way of it measured in turn in the same rounds of one run.

    `versions` are those of torch, onnxruntime and triton, `revision` is rfserve's own: the cases of one file may come
    from several runs. `others_cores` is the most that everything else took of the machine in a round. `rounds_ms`
    holds, for each way, the median time of a request in each round, `rounds_hz` the rows a second of a saturated
    Triton. `eager` and `heimdall_loop` are in FP32 whatever the precision; a model without a loop has none.
    """

    model: str
    kind: str
    precision: str
    date: str
    revision: str
    versions: Mapping[str, str]
    others_cores: float
    in_flight: int
    rounds_ms: Mapping[str, tuple[float, ...]]
    rounds_hz: tuple[float, ...]

    def __post_init__(self) -> None:
        needed = set(WAYS) - {LOOP}
        rounds = {len(r) for r in (*self.rounds_ms.values(), self.rounds_hz)}
        values = [v for r in (*self.rounds_ms.values(), self.rounds_hz) for v in r]
        if set(self.rounds_ms) - {LOOP} != needed or len(rounds) != 1 or not values or not all(v > 0 for v in values):
            raise LoadTestError(
                f"{self.model} {self.precision}: got {sorted(self.rounds_ms)} of {sorted(rounds)} rounds; expected "
                f"{', '.join(needed)} and perhaps {LOOP}, as many rounds of each, all above 0"
            )

    @property
    def key(self) -> tuple[str, str, str]:
        """What a case replaces when it is measured again."""
        return self.model, self.kind, self.precision

    def time_ms(self, way: str) -> Spread:
        """A single request."""
        return Spread.of(self.rounds_ms[way])

    @property
    def saturated_hz(self) -> Spread:
        """Rows a second with `in_flight` requests in flight."""
        return Spread.of(self.rounds_hz)

    def speed(self, way: str) -> Spread:
        """How many times as fast as eager PyTorch a request is; the two of one round are compared."""
        return Spread.of(e / t for e, t in zip(self.rounds_ms[EAGER], self.rounds_ms[way], strict=True))

    @property
    def saturated_speed(self) -> Spread:
        """How many times the rows a second of eager PyTorch, which runs one after the other, are served."""
        return Spread.of(hz * e / 1e3 for e, hz in zip(self.rounds_ms[EAGER], self.rounds_hz, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """As the file holds it: the rounds, and what follows from them for those who read the file."""
        return asdict(self) | {
            "p50_ms": {way: round(self.time_ms(way).p50, 3) for way in self.rounds_ms},
            "rows_per_s": round(self.saturated_hz.p50, 2),
            "times_eager": {way: _rounded(self.speed(way)) for way in self.rounds_ms if way != EAGER}
            | {"triton_saturated": _rounded(self.saturated_speed)},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Case":
        """From the rounds alone."""
        fields = {name: document[name] for name in cls.__dataclass_fields__}
        fields["rounds_ms"] = {way: tuple(r) for way, r in fields["rounds_ms"].items()}
        return cls(**{**fields, "rounds_hz": tuple(fields["rounds_hz"])})


@dataclass(frozen=True, kw_only=True)
class Performance:
    """What one kind of machine (`cpu-2core`) does."""

    device: str
    machine: Machine
    cases: tuple[Case, ...]

    def with_cases(self, machine: Machine, cases: Iterable[Case]) -> "Performance":
        """Cases measured anew in the place of older ones; `LoadTestError` when the machine is of another kind."""
        if (machine.cpu_model, machine.cores) != (self.machine.cpu_model, self.machine.cores):
            raise LoadTestError(
                f"{self.device} was measured on {self.machine.cores} x {self.machine.cpu_model}; this is "
                f"{machine.cores} x {machine.cpu_model}: write another file, or remove the old one"
            )
        merged = {c.key: c for c in (*self.cases, *cases)}
        return Performance(device=self.device, machine=machine, cases=tuple(merged.values()))

    def write(self, file: Path) -> None:
        """JSON; it appears whole or not at all."""
        document = {
            "schema": SCHEMA,
            "kind": KIND,
            "device": self.device,
            "machine": asdict(self.machine),
            "cases": [c.to_dict() for c in self.cases],
        }
        whole_file.write(file, json.dumps(document, indent=1, allow_nan=False) + "\n", make_folder=True)

    @classmethod
    def read(cls, file: Path) -> "Performance":
        """Results as `write` left them; `LoadTestError` for anything else."""
        try:
            document = json.loads(file.read_text())
            if document["kind"] != KIND or document["schema"] != SCHEMA:
                raise LoadTestError(f"{file}: got {document['kind']} {document['schema']}; expected {KIND} {SCHEMA}")
            return cls(
                device=document["device"],
                machine=Machine(**document["machine"]),
                cases=tuple(Case.from_dict(c) for c in document["cases"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LoadTestError(f"{file}: no results of `make bench`: {type(error).__name__}: {error}") from error


def results_in(folder: Path) -> list[Performance]:
    """All results of this kind in a folder, by device; `LoadTestError` when there is none."""
    files = [f for f in sorted(folder.glob("*.json")) if _kind(f) == KIND]
    if not files:
        raise LoadTestError(f"{folder} holds no results; make some with `make bench`")
    return [Performance.read(f) for f in files]


def _kind(file: Path) -> str:
    """Which results a file holds: those of a GPU lie in the same folder."""
    try:
        return str(json.loads(file.read_text())["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadTestError(f"{file} holds no results: {type(error).__name__}: {error}; remove it") from error


def table(results: Performance) -> str:
    """The table of one machine as Markdown, with what it was measured on."""
    head = ["model", "precision", *WAYS.values(), "Triton, saturated"]
    rows = [head, ["---"] * len(head)]
    for case in results.cases:
        cells = [f"`{case.model}` {case.kind}".strip(), case.precision]
        for way in WAYS:
            if way not in case.rounds_ms:
                cells.append("-")
            elif way == EAGER:
                cells.append(f"{_figure(case.time_ms(way).p50)} ms")
            else:
                cells.append(f"{_figure(case.time_ms(way).p50)} ms · {_times(case.speed(way))}")
        rows.append([*cells, f"{_figure(case.saturated_hz.p50)} rows/s · {_times(case.saturated_speed)}"])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", _note(results)]) + "\n"


def between_markers(document: str, results: Iterable[Performance]) -> str:
    """`document` with the part between the markers replaced; `LoadTestError` when it lacks them."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise LoadTestError(f"no lines {BEGIN!r} and {END!r}; add them where the table belongs")
    tables = "\n".join(table(r) for r in results)
    return f"{head}{BEGIN}\n{tables}{END}{tail}"


def _note(results: Performance) -> str:
    machine = results.machine
    used = {name: sorted({c.versions[name] for c in results.cases if name in c.versions}) for name in TOOLS}
    tools = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in used.items() if versions)
    dates = sorted({c.date[:10] for c in results.cases})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    rounds = sorted({len(c.rounds_hz) for c in results.cases})
    in_flight = ", ".join(str(n) for n in sorted({c.in_flight for c in results.cases}))
    return (
        f"`{results.device}`: {machine.cores} cores of {machine.cpu_model}, {machine.memory_bytes / 2**30:.0f} GiB; "
        f"{tools}; {when}. Single requests with all receivers active, p50; saturated: {in_flight} in flight. × is the "
        f"speed against eager PyTorch in FP32 with all cores, in the same round of one run, as the median of "
        f"{' or '.join(map(str, rounds))} rounds, with the lowest and highest. Milliseconds are those of this "
        "machine; ratios travel better. `make bench` makes it again, from rounds in which nothing else ran."
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(speed: Spread) -> str:
    return f"{_figure(speed.p50)}× ({_figure(speed.low)}-{_figure(speed.high)})"


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: round(value, 3) for name, value in asdict(spread).items()}
