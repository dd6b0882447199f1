"""A run and its verdicts as text."""

import math
from collections.abc import Sequence

from rfserve.loadtest import interval
from rfserve.loadtest.measurement import Measurement, Run
from rfserve.loadtest.repetitions import by_phase_and_model
from rfserve.loadtest.verdict import Row, Verdict


def text(run: Run, verdicts: Sequence[Verdict]) -> str:
    """Every verdict with its figures and reasons, what was measured beside it, and how much of it was the server."""
    lines = [f"{run.name} on {run.device} at {run.url}, {run.started}"]
    groups = by_phase_and_model(run.measurements)
    for verdict in verdicts:
        lines += ["", *_block(verdict, groups[verdict.phase, verdict.model])]
    return "\n".join(lines)


def _block(verdict: Verdict, measurements: Sequence[Measurement]) -> list[str]:
    first = measurements[0]
    load = f"{first.target_rate_hz:g}/s open loop" if first.target_rate_hz is not None else "closed loop"
    version = f" version {first.version}" if first.version else ""
    title = f"{verdict.phase}: {verdict.model}{version}{f' {first.precision}' if first.precision else ''}, {load}, "
    title += f"{len(measurements)} x {first.duration_s:g} s"
    return [
        f"{verdict.outcome.upper():9} {title}",
        *(f"          {_row(row)}" for row in verdict.rows),
        *(f"          {line}" for line in _beside(measurements)),
        *(f"       -> {reason}" for reason in verdict.reasons),
    ]


def _row(row: Row) -> str:
    scale, unit = (100, " %") if row.figure == "error_rate" else (1, "")
    value, low, high = (f"{v * scale:.4g}{unit}" for v in (row.value, row.low, row.high))
    budget = f"{row.budget * scale:g}{unit}"
    span = "no interval" if math.isnan(row.low) else f"{low} to {high}"
    return f"{row.figure:14} {value:>9}  {span:22}  budget {budget:>8}  {row.outcome}"


def _beside(measurements: Sequence[Measurement]) -> list[str]:
    sent, failed = sum(m.sent for m in measurements), sum(m.failed for m in measurements)
    late = sum(m.late for m in measurements)
    lines = []
    for name, figure in (("since due", "latency_ms"), ("since sent", "send_latency_ms")):
        p50, p95, p99, worst = (interval.mean([getattr(m, figure)(p) for m in measurements]) for p in (50, 95, 99, 100))
        lines.append(f"{name:14} p50 {p50:.2f}  p95 {p95:.2f}  p99 {p99:.2f}  worst {worst:.2f} ms")
    use = max(measurements, key=lambda m: m.generator.cpu_share).generator
    lines.append(
        f"{'generator':14} {sent} sent, {late} late, {failed} failed; busiest of {use.processes} process(es) used "
        f"{use.cpu_share:.0%} of a core"
    )
    splits = [m.server for m in measurements if m.server is not None]
    if splits:
        queue, compute, network, batch = (
            interval.mean([getattr(s, name) for s in splits])
            for name in ("queue_ms", "compute_ms", "network_ms", "mean_batch")
        )
        requests = sum(s.requests for s in splits)
        lines.append(
            f"{'server':14} queue {queue:.2f}, compute {compute:.2f}, rest {network:.2f} ms on average; "
            f"{batch:.2f} rows a batch; {requests} requests, canaries and others' included"
        )
    else:
        lines.append(f"{'server':14} {measurements[0].server_note}")
    return lines
