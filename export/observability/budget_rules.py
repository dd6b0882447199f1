"""Alerts on the latency and error budgets of the specs: what each model may use up, and when it does so too fast.

Budgets are recorded as series, one file of them for each device, so that the rules themselves are the same for all. A
percentile is an objective of its own: p95 within 100 ms allows 5 % of the answers to take longer. The bounds of the
server's histogram hold every budget, so that what is over one is counted, never interpolated.
"""

from rfserve.export.observability.rule import JOB, Alert, Group, Record, Severity, WorksWith
from rfserve.export.observability.timing import BURNS, Burn, Timing
from rfserve.export.spec import DEVICES, GRAPHS, MODELS
from rfserve.export.spec.device import Budget
from rfserve.export.spec.queueing import Priority, queue_limits

SHARES = {"p50": 0.5, "p95": 0.05, "p99": 0.01}
"""The share of answers that may be over each percentile's budget."""
LATENCY_SHARE, LATENCY_S = "rfserve:latency_budget:share", "rfserve:latency_budget:seconds"
ERROR_SHARE, QUEUE_LIMIT = "rfserve:error_budget:share", "rfserve:queue_limit:requests"
OVER, FAILED = "model_slo:rfserve_over_budget:ratio_rate", "model:rfserve_failed:ratio_rate"
ANSWERS, REQUESTS = "model:rfserve_answers:rate", "model:rfserve_requests:rate"
# One failure among three requests of a quiet night is no reason to get up.
FEWEST_BAD = 10
_TRITON_FAILED = f'nv_inference_request_failure{{job="{JOB}",reason!="CANCELED"}}'
_TRITON_GOOD = f'nv_inference_request_success{{job="{JOB}"}}'


def budget_ms(budget: Budget, slo: str) -> float:
    """The budget of one of `SHARES`."""
    return {"p50": budget.p50_ms, "p95": budget.p95_ms, "p99": budget.p99_ms}[slo]


def bound_text(bound_ms: float) -> str:
    """The `le` label of a bound, in seconds: as the server, OpenMetrics and Prometheus from 3 on write it."""
    return str(float(f"{bound_ms / 1e3:g}"))


def budgets(device: str) -> Group:
    """The budgets of a device, as series that never change."""
    rules = []
    for spec in MODELS.values():
        budget = spec.budgets[device]
        for slo, share in SHARES.items():
            labels = {"model": spec.name, "slo": slo}
            bound = bound_text(budget_ms(budget, slo))
            rules += [
                Record(name=LATENCY_SHARE, expression=f"vector({share:g})", labels={**labels, "le": bound}),
                Record(name=LATENCY_S, expression=f"vector({bound})", labels=labels),
            ]
        labels = {"model": spec.name}
        rules.append(Record(name=ERROR_SHARE, expression=f"vector({budget.error_rate:g})", labels=labels))
    for graph in GRAPHS.values():
        size = queue_limits(graph, DEVICES[device].target)[Priority.NORMAL].size
        rules.append(Record(name=QUEUE_LIMIT, expression=f"vector({size})", labels={"model": graph.name}))
    return Group(name="rfserve-budgets", rules=tuple(rules))


def burn_rates(timing: Timing) -> tuple[Group, ...]:
    """What is recorded over each window. Three days are summed up less often."""
    longest = timing.windows_s[-1]
    quick = [r for w in timing.windows_s if w != longest for r in _recorded(timing.text(w))]
    return (
        Group(name="rfserve-burn-rates", rules=tuple(quick)),
        Group(
            name="rfserve-burn-rates-long", rules=tuple(_recorded(timing.text(longest))), interval=timing.text(300.0)
        ),
    )


def _recorded(window: str) -> tuple[Record, ...]:
    """Of an ensemble, Triton counts each failure twice, and among them what was cancelled: there only the models count
    that it runs. Our own counters are right for both, and hold what a full queue refused.
    """
    answers = f"sum by (model) (rate(rfserve_request_latency_seconds_count[{window}]))"
    failed = f"sum by (model) (rate(rfserve_requests_failed_total[{window}]))"
    triton_good = f"sum by (model) (rate({_TRITON_GOOD}[{window}]))"
    triton_failed = f"sum by (model) (rate({_TRITON_FAILED}[{window}]))"
    triton_all = f"{triton_good}\n  + {triton_failed}"
    where = f"\nunless on (model) rfserve_requests_failed_total\nand on (model) {QUEUE_LIMIT}"
    ours, theirs = {"source": "rfserve"}, {"source": "triton"}
    return (
        Record(name=f"{ANSWERS}{window}", expression=answers),
        Record(
            name=f"{OVER}{window}",
            expression=(
                "max by (model, slo) (\n"
                f"  1 - sum by (model, le) (rate(rfserve_request_latency_seconds_bucket[{window}]))\n"
                f"  * on (model, le) group_right () ({LATENCY_SHARE} ^ 0)\n"
                f"  / on (model) group_left () ({answers} > 0)\n"
                ")"
            ),
        ),
        Record(name=f"{REQUESTS}{window}", expression=f"{answers} + {failed}", labels=ours),
        Record(name=f"{FAILED}{window}", expression=f"{failed}\n/ ({answers} + {failed} > 0)", labels=ours),
        Record(name=f"{REQUESTS}{window}", expression=f"({triton_all}){where}", labels=theirs),
        Record(
            name=f"{FAILED}{window}",
            expression=f"({triton_failed}\n/ ({triton_all} > 0)){where}",
            labels=theirs,
        ),
    )


def alerts(timing: Timing) -> Group:
    """An alert for each kind of budget and each of `BURNS`."""
    return Group(
        name="rfserve-budget-alerts", rules=tuple(a for b in BURNS for a in (_latency(timing, b), _errors(timing, b)))
    )


def within_reach(burn: Burn) -> list[str]:
    """Those of `SHARES` whose budget can burn so fast at all: that of p50, with every answer over it, burns at 2."""
    return [slo for slo, share in SHARES.items() if burn.factor * share < 1]


def _latency(timing: Timing, burn: Burn) -> Alert:
    long, short = timing.text(burn.long_s), timing.text(burn.short_s)
    allowed = f'{burn.factor:g} * max by (model, slo) ({LATENCY_SHARE}{{slo=~"{"|".join(within_reach(burn))}"}})'
    return Alert(
        name="RfserveLatencyBudgetBurn",
        expression=(
            f"{OVER}{long} > on (model, slo) {allowed}\n"
            f"and on (model, slo) {OVER}{short} > on (model, slo) {allowed}\n"
            f"and on (model, slo) {OVER}{long} * on (model) group_left () {ANSWERS}{long} "
            f"* {timing.seconds(burn.long_s):.0f} > {FEWEST_BAD}"
        ),
        holds_for=timing.text(burn.for_s),
        severity=Severity(burn.severity),
        works_with=WorksWith.RFSERVE,
        summary="{{ $labels.model }}: too many answers take longer than the {{ $labels.slo }} budget",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the answers of the last {long} took longer; the budget burns "
            f"more than {burn.factor:g} times as fast as it may."
        ),
        labels={"window": long},
    )


def _errors(timing: Timing, burn: Burn) -> Alert:
    long, short = timing.text(burn.long_s), timing.text(burn.short_s)
    allowed = f"{burn.factor:g} * {ERROR_SHARE}"
    return Alert(
        name="RfserveErrorBudgetBurn",
        expression=(
            f"{FAILED}{long} > on (model) group_left () {allowed}\n"
            f"and on (model, source) {FAILED}{short} > on (model) group_left () {allowed}\n"
            f"and on (model, source) {FAILED}{long} * on (model, source) {REQUESTS}{long} "
            f"* {timing.seconds(burn.long_s):.0f} > {FEWEST_BAD}"
        ),
        holds_for=timing.text(burn.for_s),
        severity=Severity(burn.severity),
        works_with=WorksWith.ANY,
        summary="{{ $labels.model }}: too many requests fail",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the requests of the last {long} failed or were refused; the "
            f"budget burns more than {burn.factor:g} times as fast as it may. Counted by {{{{ $labels.source }}}}; "
            "Triton itself does not count what a full queue refuses."
        ),
        labels={"window": long},
    )


def bounds_s() -> tuple[float, ...]:
    """Upper bounds of the server's latency histogram: a ladder, and every budget of every model and device."""
    ladder = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
    every = [budget_ms(b, slo) for spec in MODELS.values() for b in spec.budgets.values() for slo in SHARES]
    return tuple(sorted({*ladder, *(float(bound_text(ms)) for ms in every)}))
