"""What a load test measured: raw samples of each model, phase and repetition, and the file that holds them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest import fields, whole_file
from rfserve.loadtest.errors import LoadTestError

SCHEMA = 1
LOOPS = ("open", "closed")
_TIMES = ("due_s", "sent_s", "done_s")


@dataclass(frozen=True, kw_only=True)
class ServerSplit:
    """What the server says of the same window, from Triton's statistics; means over requests that succeeded.

    `queue_ms` and `compute_ms` (input, inference and output) are of one request, `network_ms` is the rest of the mean
    latency from when it was sent: wire, client, and waiting outside the queue. `mean_batch` is rows an execution. What
    others ask meanwhile, the watchdog too, counts in the server's figures alone: beside few requests, `network_ms` can
    be below 0. It is of one server: a name of several addresses has none, and a proxy before several is not noticed.
    """

    requests: int
    executions: int
    queue_ms: float
    compute_ms: float
    network_ms: float
    mean_batch: float


@dataclass(frozen=True, kw_only=True)
class GeneratorUse:
    """What the load generator itself used: CPU seconds / window of its busiest process (1.0: a core is full)."""

    cpu_share: float
    processes: int
    hosts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """One model in one repetition of one phase, warm-up cut off.

    `due_s` (intended send times; those of sending in a closed loop), `sent_s` and `done_s` are float64 seconds from the
    window's start, one entry for each request that was due in the window and answered well, in the order of `due_s`.
    `failures` counts the others by reason (`failure.REASONS`). `scheduled` requests were due, `sent` of them went out
    before the window was over, and `late` of those later than `lateness_limit_ms` after they were due.
    `target_rate_hz` is None in a closed loop, `server` is None when `server_note` says why. `precision` and `version`
    are those of the version that answered, empty when none did or nothing says it.
    """

    phase: str
    model: str
    repetition: int
    precision: str
    version: str
    loop: str
    target_rate_hz: float | None
    duration_s: float
    due_s: Array
    sent_s: Array
    done_s: Array
    failures: Mapping[str, int]
    late: int
    sent: int
    scheduled: int
    lateness_limit_ms: float
    server: ServerSplit | None
    generator: GeneratorUse
    server_note: str = ""

    def __post_init__(self) -> None:
        sizes = {getattr(self, name).shape for name in _TIMES}
        if len(sizes) != 1 or any(len(shape) != 1 for shape in sizes):
            raise LoadTestError(f"{self.name}: got times of shapes {sorted(sizes)}; expected (answered,) three times")
        if self.loop not in LOOPS or (self.loop == "open") != (self.target_rate_hz is not None):
            raise LoadTestError(
                f"{self.name}: got loop {self.loop!r} at {self.target_rate_hz}/s; expected open with a rate, or closed"
            )
        if not self.duration_s > 0 or self.answered + self.failed != self.sent or self.sent > self.scheduled:
            raise LoadTestError(
                f"{self.name}: got {self.scheduled} scheduled, {self.sent} sent, {self.answered} answered and "
                f"{self.failed} failed in {self.duration_s} s; expected each sent one to be answered or failed"
            )

    @property
    def name(self) -> str:
        """Phase, model and repetition, for messages."""
        return f"{self.phase}/{self.model} repetition {self.repetition}"

    @property
    def answered(self) -> int:
        """Requests that were answered well."""
        return int(self.due_s.size)

    @property
    def failed(self) -> int:
        """Requests that were not."""
        return sum(self.failures.values())

    @property
    def latency_s(self) -> Array:
        """From when a request was due to its answer."""
        return self.done_s - self.due_s

    @property
    def send_latency_s(self) -> Array:
        """From when a request was sent: what a client that waits for the server would claim."""
        return self.done_s - self.sent_s

    def latency_ms(self, percentile: float) -> float:
        """Latency from the intended send time, one that a request had; NaN when nothing was answered."""
        return percentile_ms(self.latency_s, percentile)

    def send_latency_ms(self, percentile: float) -> float:
        """Latency from sending; NaN when nothing was answered."""
        return percentile_ms(self.send_latency_s, percentile)

    @property
    def achieved_rate_hz(self) -> float:
        """Requests a second that went out in the window."""
        return self.sent / self.duration_s

    @property
    def goodput_hz(self) -> float:
        """Good answers a second."""
        return self.answered / self.duration_s

    @property
    def error_rate(self) -> float:
        """Failed of all that were sent; NaN when none was."""
        return self.failed / self.sent if self.sent else math.nan


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the load came from. `versions`: triton, onnxruntime, tritonclient, locust, rfserve, revision (of git)."""

    cpu_model: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """Everything that one plan measured. `started` is UTC in ISO 8601, `plan` the plan as it was given."""

    name: str
    device: str
    started: str
    url: str
    machine: Machine
    measurements: tuple[Measurement, ...]
    plan: Mapping[str, Any]

    def write(self, file: Path) -> None:
        """JSON with the raw samples as whole microseconds; the file appears whole or not at all."""
        document = {
            "schema": SCHEMA,
            "name": self.name,
            "device": self.device,
            "started": self.started,
            "url": self.url,
            "machine": asdict(self.machine),
            "plan": self.plan,
            "measurements": [_to_json(m) for m in self.measurements],
        }
        whole_file.write(file, json.dumps(document, allow_nan=False) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Run":
        """A run as `write` left it; `LoadTestError` for a file that is no run, or of a newer rfserve."""
        try:
            document = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise LoadTestError(f"cannot read {file}: {error}; expected the whole JSON of a run") from error
        _check(file, document)
        try:
            fields.check(cls, document)
            fields.check(Machine, document["machine"])
            return cls(
                name=document["name"],
                device=document["device"],
                started=document["started"],
                url=document["url"],
                machine=Machine(**document["machine"]),
                plan=document["plan"],
                measurements=tuple(_from_json(m) for m in document["measurements"]),
            )
        # Whatever another program, or a hand, put where numbers, lists and objects belong.
        except (LoadTestError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise LoadTestError(f"{file}: is no complete run: {what}") from error


def _check(file: Path, document: Any) -> None:
    """Refuse what is no run, and what another rfserve wrote."""
    if not isinstance(document, dict) or "schema" not in document or "measurements" not in document:
        raise LoadTestError(f"{file}: holds no run; expected what `rfserve-loadtest check --json` writes")
    schema = document["schema"]
    if schema != SCHEMA:
        is_newer = isinstance(schema, int) and schema > SCHEMA
        what = "a newer rfserve wrote it; read it with that one" if is_newer else "measure again with this rfserve"
        raise LoadTestError(f"{file}: got schema {schema!r}; expected {SCHEMA}: {what}")


def percentile_ms(latencies_s: Array, percentile: float) -> float:
    """A latency that a request really had, in ms; NaN when there is none."""
    # `higher` never reports better than a request really was.
    return float(np.percentile(latencies_s, percentile, method="higher")) * 1e3 if latencies_s.size else math.nan


def _to_json(measurement: Measurement) -> dict[str, Any]:
    times = {name: np.rint(getattr(measurement, name) * 1e6).astype(np.int64).tolist() for name in _TIMES}
    rest = {k: v for k, v in vars(measurement).items() if k not in _TIMES}
    return {
        **rest,
        "failures": dict(measurement.failures),
        "server": None if measurement.server is None else asdict(measurement.server),
        "generator": asdict(measurement.generator),
        **{name.replace("_s", "_us"): values for name, values in times.items()},
    }


def _from_json(document: Mapping[str, Any]) -> Measurement:
    fields.check(Measurement, document)
    given = dict(document)
    for name in _TIMES:
        given[name] = np.asarray(given.pop(name.replace("_s", "_us")), np.int64) / 1e6
    server, generator = given.pop("server"), given.pop("generator")
    fields.check(GeneratorUse, generator)
    if server is not None:
        fields.check(ServerSplit, server)
    return Measurement(
        **given,
        server=None if server is None else ServerSplit(**server),
        generator=GeneratorUse(**{**generator, "hosts": tuple(generator["hosts"])}),
    )
