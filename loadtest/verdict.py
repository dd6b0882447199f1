"""Whether a run kept a model's latency budget."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rfserve.export.spec import find
from rfserve.loadtest.samples import Samples

OK, BROKEN, INVALID = 0, 1, 3
# A generator that is later than this share of the budget measures itself.
LAG_SHARE = 0.1
SMALLEST_LAG_MS = 5.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One model's figures against its budget. `outcome` is `ok`, `broken` or `invalid`, `reason` says why."""

    model: str
    target: str
    sent: int
    failed: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    budget_ms: float
    lag_p99_ms: float
    outcome: str
    reason: str


def judge(model: str, samples: Samples, *, target: str, budget_ms: float | None = None) -> Verdict:
    """Compare a model's samples with its budget on a target; `budget_ms` replaces the spec's."""
    allowed_ms = find(model).budgets[target].p99_ms if budget_ms is None else budget_ms
    p99_ms, lag_ms = samples.latency_ms(99), samples.lag_ms(99)
    allowed_lag_ms = max(SMALLEST_LAG_MS, LAG_SHARE * allowed_ms)
    outcome, reason = "ok", ""
    if samples.sent == 0:
        outcome, reason = "invalid", "nothing was sent"
    elif samples.failures:
        outcome, reason = "broken", f"{len(samples.failures)} requests failed, first: {samples.failures[0]}"
    elif lag_ms > allowed_lag_ms:
        outcome = "invalid"
        reason = f"the generator sent {lag_ms:.1f} ms late at p99 (allowed {allowed_lag_ms:.1f}); run it elsewhere"
    elif not p99_ms <= allowed_ms:
        outcome, reason = "broken", f"p99 {p99_ms:.1f} ms is over the budget of {allowed_ms:g} ms"
    return Verdict(
        model=model,
        target=target,
        sent=samples.sent,
        failed=len(samples.failures),
        p50_ms=samples.latency_ms(50),
        p90_ms=samples.latency_ms(90),
        p99_ms=p99_ms,
        budget_ms=allowed_ms,
        lag_p99_ms=lag_ms,
        outcome=outcome,
        reason=reason,
    )


def exit_code(verdicts: list[Verdict]) -> int:
    """0 when every model is ok, 1 when a budget broke or a request failed, 3 when the run proves nothing."""
    outcomes = {v.outcome for v in verdicts}
    if not verdicts or (outcomes & {"invalid"} and "broken" not in outcomes):
        return INVALID
    return BROKEN if "broken" in outcomes else OK


def table(verdicts: list[Verdict]) -> str:
    """The figures for people."""
    lines = [f"{'model':20} {'sent':>6} {'failed':>6} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'budget':>8}  verdict"]
    lines += [
        f"{v.model:20} {v.sent:6d} {v.failed:6d} {v.p50_ms:8.2f} {v.p90_ms:8.2f} {v.p99_ms:8.2f} {v.budget_ms:8g}  "
        f"{v.outcome}{f': {v.reason}' if v.reason else ''}"
        for v in verdicts
    ]
    return "\n".join(lines)


def write_report(verdicts: list[Verdict], samples: Mapping[str, Samples], file: Path) -> None:
    """Figures and raw samples as JSON."""
    content = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(verdict).items()}
        | {"latencies_s": samples[verdict.model].latencies_s, "lags_s": samples[verdict.model].lags_s}
        for verdict in verdicts
    ]
    file.write_text(json.dumps(content, indent=1) + "\n")
