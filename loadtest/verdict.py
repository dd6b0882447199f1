"""Whether a run kept the budgets: one verdict for each phase and model, over all repetitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rfserve.loadtest import interval, validity
from rfserve.loadtest.measurement import Measurement, Run
from rfserve.loadtest.plan import Plan
from rfserve.loadtest.repetitions import by_phase_and_model, failures

PASS, FAIL, INVALID, UNDECIDED = "pass", "fail", "invalid", "undecided"
OK, BROKEN, UNPROVEN = 0, 1, 3
PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
UNITS = {"p50_ms": "ms", "p95_ms": "ms", "p99_ms": "ms", "error_rate": "of the requests", "throughput_hz": "per s"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure against its budget: the mean over the repetitions with its 95 % interval, NaN where there is none.

    `throughput_hz` has to reach its budget, every other figure must not exceed it. In an open loop it is the rate that
    was asked for times the share of the requests that was answered.
    """

    figure: str
    value: float
    low: float
    high: float
    budget: float
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run says of one model in one phase: `pass`, `fail`, `invalid` or `undecided`, and why.

    The generator's own limits make all of it `invalid`. Otherwise one figure that fails is a `fail`; without one, too
    few samples make it `invalid`, and an interval around a budget `undecided`.
    """

    phase: str
    model: str
    outcome: str
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]


def judge(run: Run) -> tuple[Verdict, ...]:
    """One verdict for each phase and model, in the order of the run; `LoadTestError` for a run whose plan is none."""
    plan = Plan.from_dict(run.plan)
    return tuple(_verdict(plan, measurements) for measurements in by_phase_and_model(run.measurements).values())


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 when every verdict is a pass, 1 when one is a fail, 3 when the run proves less than that."""
    outcomes = {v.outcome for v in verdicts}
    if FAIL in outcomes:
        return BROKEN
    return OK if outcomes == {PASS} else UNPROVEN


def _verdict(plan: Plan, measurements: Sequence[Measurement]) -> Verdict:
    first = measurements[0]
    budget = plan.budget(first.model)
    reasons = validity.problems(measurements)
    judged = [_judge(name, budget, measurements) for name in plan.figures if _has_budget(name, budget)]
    rows = tuple(row for row, _ in judged)
    outcomes = [row.outcome for row in rows]
    outcome = next((o for o in (FAIL, INVALID, UNDECIDED) if o in outcomes), PASS if rows else UNDECIDED)
    if not rows:
        reasons.append(f"device {plan.device!r} has no budget of {first.model}; give the plan one")
    elif reasons:
        outcome = INVALID
    else:
        reasons = [why for _, why in judged if why]
    promised = budget.get("rate_hz")
    if promised is not None and first.target_rate_hz is not None and first.target_rate_hz < promised:
        reasons.append(f"asked for {first.target_rate_hz:g}/s; the budget promises {promised:g}/s")
    return Verdict(phase=first.phase, model=first.model, outcome=outcome, reasons=tuple(reasons), rows=rows)


def _has_budget(figure: str, budget: dict[str, float]) -> bool:
    return (figure if figure != "throughput_hz" else "rate_hz") in budget


def _judge(figure: str, budget: dict[str, float], measurements: Sequence[Measurement]) -> tuple[Row, str]:
    if figure in PERCENTILES:
        return _latency(figure, budget[figure], measurements)
    if figure == "error_rate":
        return _errors(budget[figure], measurements)
    return _throughput(budget, measurements)


def _latency(figure: str, budget: float, measurements: Sequence[Measurement]) -> tuple[Row, str]:
    percentile = PERCENTILES[figure]
    values = [m.latency_ms(percentile) for m in measurements]
    in_all, in_each = validity.samples_needed(percentile)
    counts = [m.answered for m in measurements]
    if sum(counts) < in_all or min(counts) < in_each:
        low, high = math.nan, math.nan
        row = Row(figure=figure, value=interval.mean(values), low=low, high=high, budget=budget, outcome=INVALID)
        return row, (
            f"{figure} needs {in_all} answers in all and {in_each} in each repetition; there are {sum(counts)} and "
            f"{min(counts)}: make the phase longer, or repeat it"
        )
    low, high = interval.of_mean(values)
    row = _row(figure, interval.mean(values), low, high, budget)
    return row, _why(row, interval.more_for_mean(values, budget))


def _errors(budget: float, measurements: Sequence[Measurement]) -> tuple[Row, str]:
    failed, sent = sum(m.failed for m in measurements), sum(m.sent for m in measurements)
    low, high = interval.of_shares([(m.failed, m.sent) for m in measurements])
    row = _row("error_rate", failed / sent if sent else math.nan, low, high, budget)
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(failures(measurements).items()))
    more = interval.more_for_share(failed, sent, budget, len(measurements))
    return row, _why(row, more) + (f": {listed}" if listed and row.outcome != PASS else "")


def _throughput(budget: dict[str, float], measurements: Sequence[Measurement]) -> tuple[Row, str]:
    """Of a closed loop the good answers a second.

    In an open loop how many requests there are is the schedule's chance: what the server adds is the share of them that
    it answers.
    """
    target_hz = measurements[0].target_rate_hz
    if target_hz is None:
        scale_hz, least_hz = 1.0, budget["rate_hz"]
        values = [m.goodput_hz for m in measurements]
    else:
        scale_hz, least_hz = target_hz, min(target_hz, budget["rate_hz"])
        # Where nothing was due, nothing is known.
        values = [m.answered / m.scheduled for m in measurements if m.scheduled]
    least_hz *= 1 - budget.get("error_rate", 0.0)
    low, high = (scale_hz * end for end in interval.of_mean(values))
    row = _row("throughput_hz", scale_hz * interval.mean(values), low, high, least_hz)
    return row, _why(row, interval.more_for_mean(values, least_hz / scale_hz))


def _row(figure: str, value: float, low: float, high: float, budget: float) -> Row:
    if figure == "throughput_hz":
        kept, broken = low >= budget, high < budget
    else:
        kept, broken = high <= budget, low > budget
    outcome = PASS if kept else FAIL if broken else UNDECIDED
    # Few repetitions that differ much have an interval that reaches below 0, where no figure is.
    return Row(figure=figure, value=value, low=0.0 if low < 0 else low, high=high, budget=budget, outcome=outcome)


def _why(row: Row, more: int | None) -> str:
    if row.outcome == PASS:
        return ""
    side = "under" if row.figure == "throughput_hz" else "over"
    found = f"{row.figure} {row.value:.4g} ({row.low:.4g} to {row.high:.4g} {UNITS[row.figure]})"
    if row.outcome == FAIL:
        return f"{found} is {side} the budget of {row.budget:.4g}"
    if math.isnan(row.low):
        return f"{row.figure} {row.value:.4g}: one repetition has no interval; give two or more"
    settle = "a hundred would not settle it" if more is None else f"{more} more could settle it"
    return f"{found} is not clear of the budget of {row.budget:.4g}; as repetitions go, {settle}"
