"""Runs with known latencies: made, not measured."""

import numpy as np

from rfserve.loadtest.measurement import GeneratorUse, Machine, Measurement, Run, ServerSplit

MODEL = "heimdall_net"
MACHINE = Machine(
    cpu_model="Some CPU",
    cores=2,
    memory_bytes=16 * 2**30,
    kernel="6.1",
    python="3.11.7",
    versions={"triton": "2.51.0", "rfserve": "0.1.0"},
)


def measurement(rng, *, answered=600, rate_hz=50.0, median_ms=10.0, failed=0, between=0.0, **given):
    """Log-normal latencies; `between` is the standard deviation from repetition to repetition, as a share."""
    duration_s = (answered + failed) / rate_hz
    due_s = np.sort(rng.uniform(0, duration_s, answered))
    sent_s = due_s + rng.uniform(0, 1e-4, answered)
    latency_s = 1e-3 * median_ms * np.exp(rng.normal(0, between) + rng.normal(0, 0.3, answered))
    fields = {
        "phase": "steady",
        "model": MODEL,
        "repetition": 0,
        "precision": "fp32",
        "version": "1",
        "loop": "open",
        "target_rate_hz": rate_hz,
        "duration_s": duration_s,
        "due_s": due_s,
        "sent_s": sent_s,
        "done_s": sent_s + latency_s,
        "failures": {"deadline": failed} if failed else {},
        "late": 0,
        "sent": answered + failed,
        "scheduled": answered + failed,
        "lateness_limit_ms": 5.0,
        "server": ServerSplit(
            requests=answered,
            executions=answered // 2,
            queue_ms=0.2 * median_ms,
            compute_ms=0.6 * median_ms,
            network_ms=0.2 * median_ms,
            mean_batch=2.0,
        ),
        "generator": GeneratorUse(cpu_share=0.2, processes=1, hosts=("load-1",)),
    }
    return Measurement(**(fields | given))


def run(seed=0, *, repetitions=3, name="made", machine=MACHINE, device="cpu-2core", plan=None, **given):
    """Repetitions of one phase and model."""
    rng = np.random.default_rng(seed)
    return Run(
        name=name,
        device=device,
        started="2026-01-02T03:04:05+00:00",
        url="127.0.0.1:8001",
        machine=machine,
        measurements=tuple(measurement(rng, repetition=i, **given) for i in range(repetitions)),
        plan=plan or {},
    )
