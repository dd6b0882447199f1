"""Runs with known latencies: made, not measured."""

from dataclasses import replace

import numpy as np

from rfserve.loadtest.measurement import GeneratorUse, Machine, Measurement, Run, ServerSplit
from rfserve.loadtest.plan import Phase, Plan, Stream

MODEL = "heimdall_net"
RATE_HZ = 50.0
MACHINE = Machine(
    cpu_model="Some CPU",
    cores=2,
    memory_bytes=16 * 2**30,
    kernel="6.1",
    python="3.11.7",
    versions={"triton": "2.51.0", "rfserve": "0.1.0"},
)


def measurement_of(latencies_ms, *, rate_hz=RATE_HZ, failures=None, unsent=0, cpu_share=0.1, due_s=None, **given):
    """One repetition with these latencies from when they were sent: evenly due, and sent when due, if not said."""
    latency_s = np.asarray(latencies_ms, float) / 1e3
    failures = failures or {}
    sent = latency_s.size + sum(failures.values())
    due_s = np.arange(latency_s.size) / rate_hz if due_s is None else due_s
    sent_s = given.get("sent_s", due_s)
    fields = {
        "phase": "steady",
        "model": MODEL,
        "repetition": 0,
        "precision": "fp32",
        "version": "1",
        "loop": "open",
        "target_rate_hz": rate_hz,
        "duration_s": max(sent + unsent, 1) / rate_hz,
        "due_s": due_s,
        "sent_s": sent_s,
        "done_s": sent_s + latency_s,
        "failures": failures,
        "late": 0,
        "sent": sent,
        "scheduled": sent + unsent,
        "lateness_limit_ms": 5.0,
        "server": None,
        "generator": GeneratorUse(cpu_share=cpu_share, processes=1, hosts=("load-1",)),
        "server_note": "not asked",
    }
    return Measurement(**(fields | given))


def measurement(rng, *, answered=600, rate_hz=RATE_HZ, median_ms=10.0, failed=0, between=0.0, **given):
    """Log-normal latencies; `between` is the standard deviation from repetition to repetition, as a share."""
    due_s = np.sort(rng.uniform(0, (answered + failed) / rate_hz, answered))
    sent_s = due_s + rng.uniform(0, 1e-4, answered)
    latencies_ms = median_ms * np.exp(rng.normal(0, between) + rng.normal(0, 0.3, answered))
    server = ServerSplit(
        requests=answered,
        executions=answered // 2,
        queue_ms=0.2 * median_ms,
        compute_ms=0.6 * median_ms,
        network_ms=0.2 * median_ms,
        mean_batch=2.0,
    )
    failures = {"deadline": failed} if failed else {}
    fields = {"due_s": due_s, "sent_s": sent_s, "failures": failures, "server": server, "server_note": ""}
    return measurement_of(latencies_ms, rate_hz=rate_hz, **(fields | given))


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


def run_of(measurements, *, budgets=None, **plan):
    """A run of them, with budgets of its own for MODEL."""
    phase = Phase(name="steady", duration_s=1.0, streams=(Stream(model=MODEL, rate_hz=RATE_HZ),))
    given = {"p50_ms": 20.0, "p95_ms": 40.0, "p99_ms": 100.0, "rate_hz": RATE_HZ} | (budgets or {})
    made = Plan(name="made", device="cpu-2core", phases=(phase,), budgets={MODEL: given}, **plan)
    return replace(run(repetitions=0, plan=made.to_dict()), measurements=tuple(measurements))
