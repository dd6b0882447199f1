"""How long requests took inside Triton, queues included, and which failed: made from Triton's own traces of them all.

Triton (2.51) counts durations and can give quantiles of the last minute, neither of which Prometheus can add up over
servers. Of failures it counts none that a full queue refused, those of an ensemble twice, and its cancelled ones among
them. Its traces hold the times of each request; they go to files in a folder of ours, are read every few seconds, and
deleted.
"""

import re
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from pathlib import Path

from rfserve.server.canary import REQUEST_ID
from rfserve.server.http_api import HttpApi
from rfserve.server.latency_bounds import BOUNDS_S

# Beyond what comes between two collections, which take what there is.
TRACES_PER_FILE = 5000
# A server that nobody collects from any more must not fill the disk; every collection grants as many again.
TRACES_GRANTED = 100_000
_ENTRY = re.compile(
    r'\{"id":(\d+),(?:'
    r'"model_name":"([^"]+)","model_version":(\d+)(?:,"request_id":"([^"]*)")?(?:,"parent_id":(\d+))?\}'
    r'|"timestamps":\[\{"name":"(REQUEST_START|COMPUTE_OUTPUT_START|REQUEST_END|(?:GRPC|HTTP)_SEND_START)","ns":(\d+)\}\]\})'
)


class Failure(StrEnum):
    """Why a request that somebody waited for got no good answer."""

    REFUSED = "refused"
    """No model computed it: a queue was full, or it waited too long."""
    ERROR = "error"
    """An instance failed, or was gone."""


@dataclass
class Histogram:
    """Counts of one model version: one for each bound and one above them all, and what failed."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0
    failed: Counter[Failure] = field(default_factory=Counter)

    def add(self, latency_s: float) -> None:
        """Count one request."""
        self.counts[bisect_left(BOUNDS_S, latency_s)] += 1
        self.sum_s += latency_s

    def cumulative(self) -> list[tuple[str, int]]:
        """Prometheus' form: each bound, written as every version of it writes it, with the requests up to it."""
        return list(zip([*(str(float(b)) for b in BOUNDS_S), "+Inf"], accumulate(self.counts), strict=True))


@dataclass(kw_only=True)
class _Trace:
    model: str
    version: str
    request_id: str
    parent: str
    times_ns: dict[str, int] = field(default_factory=dict)


class RequestLatency:
    """The histograms of one server, whose traces come to `folder`, an empty one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._histograms: dict[tuple[str, str], Histogram] = {}
        self._known: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._turn = 0

    def arguments(self) -> tuple[str, ...]:
        """Arguments for tritonserver."""
        settings = (
            "level=TIMESTAMPS",
            "rate=1",
            f"count={TRACES_GRANTED}",
            f"triton,file={self._folder / 'trace'}",
            f"triton,log-frequency={TRACES_PER_FILE}",
        )
        return tuple(f"--trace-config={s}" for s in settings)

    def collect(self, http: HttpApi) -> Mapping[tuple[str, str], Histogram]:
        """By model and version, after all that has ended is counted, but canaries and what was cancelled."""
        with self._lock:
            served = http.served_versions()
            if served is None:
                # What is there waits for the next time; as nothing is granted, it does not grow for ever.
                return dict(self._histograms)
            # One that has left may have traces yet.
            self._known |= served
            # A changed setting makes Triton write what it holds back.
            self._turn = 1 - self._turn
            frequency = str(TRACES_PER_FILE + self._turn)
            http.call("/v2/trace/setting", {"log_frequency": frequency, "trace_count": str(TRACES_GRANTED)})
            for file in sorted(self._folder.iterdir()):
                text = file.read_text(errors="replace")
                if not text.endswith("]"):
                    # Still being written: the next time.
                    continue
                file.unlink()
                for model, version, outcome in outcomes(text):
                    # Clients can write into the traces, through request ids: they must not make series.
                    if (model, version) not in self._known:
                        continue
                    histogram = self._histograms.setdefault((model, version), Histogram())
                    if isinstance(outcome, Failure):
                        histogram.failed[outcome] += 1
                    else:
                        histogram.add(outcome)
            return dict(self._histograms)


def outcomes(text: str) -> Iterator[tuple[str, str, float | Failure]]:
    """Model, version, and the seconds from arrival to answer or why there was none, of each request in one file of
    traces. Nobody waited for what was cancelled; steps of an ensemble are requests as well.
    """
    traces: dict[str, _Trace] = {}
    for key, model, version, request_id, parent, name, time_ns in _ENTRY.findall(text):
        if model:
            traces[key] = _Trace(model=model, version=version, request_id=request_id, parent=parent)
        elif key in traces:
            traces[key].times_ns[name] = int(time_ns)
    # A request that failed or was refused has no output; an ensemble has none of its own, and is as good as its steps.
    good = {k for k, t in traces.items() if t.times_ns.get("COMPUTE_OUTPUT_START")}
    steps: dict[str, list[str]] = {}
    for key, trace in traces.items():
        if trace.parent:
            steps.setdefault(trace.parent, []).append(key)
    good |= {k for k, s in steps.items() if good.issuperset(s)}
    for key, trace in traces.items():
        begin, end = trace.times_ns.get("REQUEST_START"), trace.times_ns.get("REQUEST_END")
        if not begin or trace.request_id == REQUEST_ID:
            continue
        if key in good:
            if end:
                yield trace.model, trace.version, (end - begin) / 1e9
        elif _was_answered(traces.get(trace.parent, trace)):
            # An instance that failed leaves a time of 0.
            tried = any("COMPUTE_OUTPUT_START" in traces[k].times_ns for k in {key, *steps.get(key, ())} - good)
            yield trace.model, trace.version, Failure.ERROR if tried else Failure.REFUSED


def _was_answered(trace: _Trace) -> bool:
    """Whether the client was told, if only that it failed: one that cancelled gets no answer. What a full queue refuses
    has no end, and over HTTP no time of its answer.
    """
    return "REQUEST_END" not in trace.times_ns or any(name.endswith("_SEND_START") for name in trace.times_ns)
