"""Measurements that tests judge."""

import numpy as np

from rfserve.loadtest.measurement import GeneratorUse, Machine, Measurement, Run
from rfserve.loadtest.plan import Phase, Plan, Stream

MODEL = "heimdall_net"
RATE_HZ = 50.0


def measured(latencies_ms, *, repetition=0, failures=None, cpu_share=0.1, late=0, unsent=0, model=MODEL) -> Measurement:
    """One repetition with these latencies, evenly due at RATE_HZ."""
    latency_s = np.asarray(latencies_ms, float) / 1e3
    failures = failures or {}
    sent = latency_s.size + sum(failures.values())
    due_s = np.arange(latency_s.size) / RATE_HZ
    return Measurement(
        phase="steady",
        model=model,
        repetition=repetition,
        precision="fp32",
        version="1",
        loop="open",
        target_rate_hz=RATE_HZ,
        duration_s=max(sent + unsent, 1) / RATE_HZ,
        due_s=due_s,
        sent_s=due_s,
        done_s=due_s + latency_s,
        failures=failures,
        late=late,
        sent=sent,
        scheduled=sent + unsent,
        lateness_limit_ms=5.0,
        server=None,
        generator=GeneratorUse(cpu_share=cpu_share, processes=1, hosts=("here",)),
        server_note="not asked",
    )


def run_of(measurements, *, budgets=None, **plan) -> Run:
    """A run of them, with budgets of its own for MODEL."""
    phase = Phase(name="steady", duration_s=1.0, streams=(Stream(model=MODEL, rate_hz=RATE_HZ),))
    given = {"p50_ms": 20.0, "p95_ms": 40.0, "p99_ms": 100.0, "rate_hz": RATE_HZ} | (budgets or {})
    made = Plan(name="x", device="cpu-2core", phases=(phase,), budgets={MODEL: given}, **plan)
    return Run(
        name="x",
        device=made.device,
        started="2026-01-01T00:00:00+00:00",
        url="127.0.0.1:8001",
        machine=Machine(cpu_model="", cores=1, memory_bytes=1, kernel="", python=""),
        measurements=tuple(measurements),
        plan=made.to_dict(),
    )
