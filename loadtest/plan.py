"""What a load test does: phases of streams of requests, repeated; a TOML file.

name = "example"
device = "cpu-2core"      # whose budgets hold
repetitions = 5
[[phases]]                # one after the other, each with all of its streams at once
name = "steady"
duration_s = 20
[[phases.streams]]
model = "heimdall_net"    # at the budget's own rate, unless `rate_hz` (open loop) or `users` (closed) says else
mix = { receivers = [3, 5, 10] }
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from rfserve.export.spec import DEVICES, Budget, RfserveError, find
from rfserve.loadtest.arrivals import ARRIVALS, POISSON
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.fields import check

BUNDLED = Path(__file__).parent / "plans"
FIGURES = ("p50_ms", "p95_ms", "p99_ms", "error_rate", "throughput_hz")
SAMPLE_AXES = ("samples", "raw_samples")

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What the requests of a stream hold, in turn: numbers of active `receivers`, lengths on the samples axis, events.

    Empty means the served length, and a number of receivers drawn for each payload. `events` is a folder whose SigMF
    collections are sent as the client would. `distinct` payloads are built, and sent in turn; `duplicate_share` of the
    requests repeat the one before them, byte for byte.
    """

    receivers: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    events: str | None = None
    duplicate_share: float = 0.0
    distinct: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.duplicate_share <= 1 or self.distinct < 1:
            raise LoadTestError(
                f"mix: got duplicate_share {self.duplicate_share}, distinct {self.distinct}; expected a share from 0 "
                "to 1, and 1 or more"
            )
        if self.events is not None and (self.receivers or self.samples):
            raise LoadTestError("mix: got events beside receivers or samples; expected one: events bring their own")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Requests for one model: open-loop at `rate_hz`, or closed-loop from so many `users` that wait for each answer.

    Neither means open-loop at the rate of the device's budget.
    """

    model: str
    rate_hz: float | None = None
    users: int | None = None
    arrivals: str = POISSON
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        axes = {a.name: a for a in find(self.model).axes}
        if self.rate_hz is not None and self.users is not None:
            raise LoadTestError(f"{self.model}: got rate_hz and users; expected one: an open loop, or a closed one")
        if self.rate_hz is not None and not 0 < self.rate_hz < float("inf"):
            raise LoadTestError(f"{self.model}: got rate_hz {self.rate_hz}; expected above 0")
        if self.users is not None and self.users < 1:
            raise LoadTestError(f"{self.model}: got {self.users} users; expected 1 or more")
        if self.arrivals not in ARRIVALS:
            raise LoadTestError(f"{self.model}: got arrivals {self.arrivals!r}; expected {' or '.join(ARRIVALS)}")
        for name, sizes in (("receivers", self.mix.receivers), (self.samples_axis, self.mix.samples)):
            axis = axes.get(name or "")
            if sizes and axis is None:
                raise LoadTestError(
                    f"{self.model}: its mix varies {name or 'samples'}, which the model has no axis for"
                )
            if axis is not None and not all(axis.minimum <= s <= axis.maximum for s in sizes):
                raise LoadTestError(
                    f"{self.model}: got {name} {list(sizes)}; expected {axis.minimum} to {axis.maximum} each"
                )

    @property
    def samples_axis(self) -> str | None:
        """The axis that the mix's lengths are of; None when the model has a fixed length."""
        return next((a.name for a in find(self.model).axes if a.name in SAMPLE_AXES), None)

    @property
    def loop(self) -> str:
        """`open` or `closed`."""
        return "open" if self.users is None else "closed"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Streams that are sent at once, for `duration_s` after the plan's warm-up. Each has a model of its own."""

    name: str
    duration_s: float
    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        models = [s.model for s in self.streams]
        if not 0 < self.duration_s < float("inf") or not models or len(set(models)) != len(models):
            raise LoadTestError(
                f"phase {self.name}: got {self.duration_s} s of {', '.join(models) or 'nothing'}; expected above 0 s, "
                "and one or more models, each once"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A load test. `device` says whose budgets hold; `budgets` replaces fields of them by model, `*` means each.

    Every phase is repeated `repetitions` times, phase after phase in every repetition, each with a warm-up of
    `warm_up_s` that does not count, and with a schedule of its own from `seed`. `processes` generate the load on this
    host, `timeout_s` is the deadline of a request, and `figures` are those that are judged.
    """

    name: str
    device: str
    phases: tuple[Phase, ...]
    repetitions: int = 5
    warm_up_s: float = 3.0
    seed: int = 1
    processes: int = 1
    timeout_s: float = 10.0
    budgets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    figures: tuple[str, ...] = FIGURES

    def __post_init__(self) -> None:
        if self.repetitions < 1 or self.processes < 1 or not self.warm_up_s >= 0 or not self.timeout_s > 0:
            raise LoadTestError(
                f"plan {self.name}: got {self.repetitions} repetitions, {self.processes} processes, warm-up of "
                f"{self.warm_up_s} s, timeout of {self.timeout_s} s; expected 1 or more, 1 or more, from 0, above 0"
            )
        names = [p.name for p in self.phases]
        if not names or len(set(names)) != len(names):
            raise LoadTestError(f"plan {self.name}: got phases {names}; expected one or more, each name once")
        if not self.figures or set(self.figures) - set(FIGURES):
            raise LoadTestError(f"plan {self.name}: got figures {self.figures}; expected some of {', '.join(FIGURES)}")
        known = {f.name for f in fields(Budget)}
        for model, changes in self.budgets.items():
            if model != "*":
                find(model)
            if set(changes) - known:
                raise LoadTestError(
                    f"plan {self.name}: budget of {model} has {sorted(set(changes) - known)}; expected {sorted(known)}"
                )
        for phase in self.phases:
            for stream in phase.streams:
                if stream.loop == "open":
                    self.rate_hz(stream)

    def budget(self, model: str) -> dict[str, float]:
        """The budget's fields by name for one model, the plan's own changes included; empty for an unknown device."""
        promised = asdict(find(model).budgets[self.device]) if self.device in DEVICES else {}
        return {**promised, **self.budgets.get("*", {}), **self.budgets.get(model, {})}

    def rate_hz(self, stream: Stream) -> float:
        """The rate of an open-loop stream; `LoadTestError` when neither it nor a budget says one."""
        rate = self.budget(stream.model).get("rate_hz") if stream.rate_hz is None else stream.rate_hz
        if rate is None:
            raise LoadTestError(
                f"plan {self.name}: {stream.model} has no rate_hz, and device {self.device!r} no budget; expected a "
                f"rate, or one of {', '.join(DEVICES)}"
            )
        return float(rate)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is asked, once."""
        return tuple(dict.fromkeys(s.model for p in self.phases for s in p.streams))

    def to_dict(self) -> dict[str, Any]:
        """As JSON and TOML can hold it; `from_dict` gives the plan back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Plan":
        """The plan that a document says; `LoadTestError` for what it cannot be."""
        known = dict(document)
        phases = tuple(_phase(p) for p in _tables(known.pop("phases", ()), "phases"))
        return _made(cls, {**known, "phases": phases}, "plan")


def read(name: str) -> Plan:
    """A plan from a file, or one that comes with rfserve by its bare name; `LoadTestError` when there is none."""
    bundled = sorted(file.stem for file in BUNDLED.glob("*.toml"))
    file = BUNDLED / f"{name}.toml" if name in bundled else Path(name)
    try:
        document = tomllib.loads(file.read_text())
    except OSError as error:
        raise LoadTestError(f"no plan {name!r} ({error.strerror}); expected a file, or {', '.join(bundled)}") from error
    except ValueError as error:
        raise LoadTestError(f"{file} is no TOML: {error}") from error
    try:
        return Plan.from_dict({"name": file.stem, **document})
    except RfserveError as error:
        raise LoadTestError(f"{file}: {error}") from error


def _phase(document: Mapping[str, Any]) -> Phase:
    streams = tuple(_stream(s) for s in _tables(document.get("streams", ()), "streams"))
    return _made(Phase, {**document, "streams": streams}, "phase")


def _stream(document: Mapping[str, Any]) -> Stream:
    mix = document.get("mix", {})
    (table,) = _tables([mix], "mix")
    return _made(Stream, {**document, "mix": _made(Mix, table, "mix")}, "stream")


def _tables(value: object, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, Mapping) for v in value):
        raise LoadTestError(f"{name}: got {value!r}; expected tables")
    return list(value)


def _made(kind: type[Item], values: Mapping[str, Any], what: str) -> Item:
    unknown = set(values) - {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        known = ", ".join(f.name for f in fields(kind))  # type: ignore[arg-type]
        raise LoadTestError(f"{what}: got unknown {', '.join(sorted(unknown))}; expected {known}")
    check(kind, values)
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise LoadTestError(f"{what}: {error}") from error
