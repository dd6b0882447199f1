"""The parts that workers measured of one phase, made into one measurement of each model."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest.generator import Generator
from rfserve.loadtest.measurement import GeneratorUse, Measurement
from rfserve.loadtest.plan import Phase, Plan, Stream
from rfserve.loadtest.server_statistics import Counts, split

TIMES = ("due", "sent", "done")


def summary(generator: Generator) -> dict[str, Any]:
    """What a worker's last word says of one stream."""
    samples = generator.samples
    return {**samples.counts(), "scheduled": generator.scheduled, "version": samples.version}


def packed(times_s: tuple[Array, Array, Array]) -> tuple[bytes, bytes, bytes]:
    """Times as whole microseconds, little-endian int64."""
    due, sent, done = (np.rint(values * 1e6).astype("<i8").tobytes() for values in times_s)
    return due, sent, done


@dataclass(kw_only=True)
class Part:
    """What one worker sent so far: chunks of times in µs by model, and its last word."""

    chunks: dict[str, list[tuple[Array, Array, Array]]] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cpu_share: float = 0.0
    host: str = ""

    def add(self, data: Mapping[str, Any]) -> None:
        """A message with samples."""
        due, sent, done = (np.frombuffer(data[name], "<i8") / 1e6 for name in TIMES)
        self.chunks.setdefault(data["model"], []).append((due, sent, done))

    def finish(self, data: Mapping[str, Any]) -> None:
        """The message that says done."""
        self.streams, self.cpu_share, self.host = data["streams"], float(data["cpu_share"]), str(data["host"])


def measurement(
    plan: Plan,
    phase: Phase,
    stream: Stream,
    *,
    repetition: int,
    limit_ms: float,
    parts: Sequence[Part],
    before: Counts,
    after: Counts,
    repository: Path | None,
) -> Measurement:
    """One model's samples of all workers, with what the server counted meanwhile."""
    chunks = [c for part in parts for c in part.chunks.get(stream.model, [])]
    due, sent, done = (np.concatenate([c[i] for c in chunks]) if chunks else np.empty(0) for i in range(3))
    ascending = np.argsort(due, kind="stable")
    summaries = [part.streams[stream.model] for part in parts]
    failures: Counter[str] = Counter()
    for summary in summaries:
        failures.update(summary["failures"])
    version = next((s["version"] for s in summaries if s["version"]), "")
    mean_ms = float(np.mean(done - sent)) * 1e3 if due.size else float("nan")
    server, note = split(before, after, mean_ms) if due.size else (None, "nothing was answered")
    return Measurement(
        phase=phase.name,
        model=stream.model,
        repetition=repetition,
        precision=_precision(repository, stream.model, version),
        version=version,
        loop=stream.loop,
        target_rate_hz=plan.rate_hz(stream) if stream.loop == "open" else None,
        duration_s=phase.duration_s,
        due_s=due[ascending],
        sent_s=sent[ascending],
        done_s=done[ascending],
        failures=dict(failures),
        late=sum(s["late"] for s in summaries),
        sent=sum(s["sent"] for s in summaries),
        scheduled=sum(s["scheduled"] for s in summaries),
        lateness_limit_ms=limit_ms,
        server=server,
        server_note=note,
        generator=GeneratorUse(
            cpu_share=max(part.cpu_share for part in parts),
            processes=len(parts),
            hosts=tuple(sorted({part.host for part in parts})),
        ),
    )


def _precision(repository: Path | None, model: str, version: str) -> str:
    """From the version's manifest, because a server does not say; empty without a repository."""
    if repository is None or not version:
        return ""
    try:
        manifest = json.loads((repository / model / version / "manifest.json").read_text())
        return str(manifest.get("precision", ""))
    except (OSError, ValueError, AttributeError):
        return ""
