"""How long ONNX Runtime takes for one request on this machine's CPU."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfserve.export import onnx_file
from rfserve.export.spec import ModelSpec, example

WARM_UP_RUNS = 3
RUNS = (10, 100)
ENOUGH_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles over `runs` single requests in a row, without server or network, on `cores` of this machine."""

    p50_ms: float
    p90_ms: float
    runs: int
    cores: int


def measure(file: Path, spec: ModelSpec) -> Latency:
    """Time the spec's example at batch 1; as many runs as fit 3 s, at least 10 and at most 100."""
    session = onnx_file.open_session(file)
    inputs = example(spec)
    for _ in range(WARM_UP_RUNS):
        onnx_file.run_session(session, inputs)
    times_ms: list[float] = []
    begun = time.perf_counter()
    while len(times_ms) < RUNS[0] or (len(times_ms) < RUNS[1] and time.perf_counter() - begun < ENOUGH_S):
        sent = time.perf_counter()
        onnx_file.run_session(session, inputs)
        times_ms.append((time.perf_counter() - sent) * 1e3)
    p50, p90 = np.percentile(times_ms, (50, 90))
    return Latency(p50_ms=float(p50), p90_ms=float(p90), runs=len(times_ms), cores=len(os.sched_getaffinity(0)))
