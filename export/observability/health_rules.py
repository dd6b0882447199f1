"""Alerts on the servers themselves: gone, dead inside, overfull, of different versions, growing."""

from rfserve.export.observability.budget_rules import LATENCY_S, QUEUE_LIMIT
from rfserve.export.observability.rule import JOB, NAMESPACE, Alert, Group, Record, Severity, WorksWith
from rfserve.export.observability.timing import HOUR_S, MINUTE_S, Timing

SERVED = "instance_model_version:rfserve_served:bool"
MEMORY = "server:rfserve_memory:bytes"
# As the base and KServe call them.
CONTAINERS = "triton|kserve-container"
SLOW_TAIL = "instance_model:rfserve_p99_over_budget:bool"
# The longest pause between two canaries is 30 s, however hastened the rest is.
STALE_S, LEAST_STALE_S = 5 * MINUTE_S, 75.0
GROWTH_WINDOW_S, GROWTH_SHARE = 6 * HOUR_S, 0.05
# What a dead instance fails of the requests of a server with little to do is less than its share of the instances.
FAILING_SHARE = 0.01
TAIL_SHARE = 0.5
QUEUE_SHARE = 0.5
OFTEN = 3
# As the startup probe allows.
START_S = 10 * MINUTE_S


def records(timing: Timing) -> Group:
    """What the alerts of `alerts` read, from whichever metrics there are."""
    recently = timing.text(10 * MINUTE_S)
    return Group(
        name="rfserve-servers",
        rules=(
            Record(
                name=SERVED,
                expression="max by (instance, model, version) (rfserve_model_version_served) == 1",
                labels={"source": "rfserve"},
            ),
            # Triton keeps the series of versions that it unloaded: only those that answered of late are served.
            Record(
                name=SERVED,
                expression=(
                    "(sum by (instance, model, version) "
                    f'(increase(nv_inference_request_success{{job="{JOB}"}}[{recently}])) > 0) ^ 0\n'
                    "unless on (instance) rfserve_triton_metrics_up"
                ),
                labels={"source": "triton"},
            ),
            Record(
                name=MEMORY,
                expression="sum by (instance) (rfserve_resident_memory_bytes)",
                labels={"source": "rfserve"},
            ),
            Record(
                name=MEMORY,
                expression=(
                    "sum by (namespace, pod) (container_memory_working_set_bytes"
                    f'{{namespace="{NAMESPACE}",container=~"{CONTAINERS}"}})'
                ),
                labels={"source": "kubelet"},
            ),
            Record(
                name=SLOW_TAIL,
                expression=(
                    "max by (instance, model) "
                    f'(nv_inference_request_summary_us{{job="{JOB}",quantile="0.99"}}) / 1e6\n'
                    f'> bool on (model) group_left () max by (model) ({LATENCY_S}{{slo="p99"}})\n'
                    "unless on (model) rfserve_request_latency_seconds_count"
                ),
            ),
        ),
    )


def alerts(timing: Timing) -> Group:
    """Every alert that is not about a budget."""
    every = (_gone, _inside, _load, _state)
    return Group(name="rfserve-server-alerts", rules=tuple(alert for part in every for alert in part(timing)))


def _gone(timing: Timing) -> tuple[Alert, ...]:
    hour = timing.text(HOUR_S)
    return (
        Alert(
            name="RfserveServerDown",
            # Ports open when the models are loaded: one that has just come is not down.
            expression=f'up{{job="{JOB}"}} == 0\nand up{{job="{JOB}"}} offset {timing.text(START_S)}',
            holds_for=timing.text(2 * MINUTE_S),
            severity=Severity.PAGE,
            works_with=WorksWith.ANY,
            summary="{{ $labels.instance }} does not answer",
            description=f"Prometheus cannot read its metrics, and has known it for over {timing.text(START_S)}.",
        ),
        Alert(
            name="RfserveNoServers",
            expression=f'absent(up{{job="{JOB}"}})',
            holds_for=timing.text(5 * MINUTE_S),
            severity=Severity.PAGE,
            works_with=WorksWith.ANY,
            summary="Prometheus knows no server",
            description=f"There is no target of the job {JOB}: all are gone, or nobody scrapes them.",
        ),
        Alert(
            name="RfserveRestarting",
            expression=f"changes(rfserve_server_start_time_seconds[{hour}]) >= {OFTEN}",
            holds_for=timing.text(1),
            severity=Severity.PAGE,
            works_with=WorksWith.RFSERVE,
            summary="{{ $labels.instance }} starts again and again",
            description=f"{{{{ $value }}}} restarts within {hour}.",
        ),
    )


def _inside(timing: Timing) -> tuple[Alert, ...]:
    hour, short = timing.text(HOUR_S), timing.text(5 * MINUTE_S)
    by = "sum by (instance, model)"
    failed = f'rate(nv_inference_request_failure{{job="{JOB}",reason="BACKEND"}}[{short}])'
    every = (
        f'{by} (rate(nv_inference_request_success{{job="{JOB}"}}[{short}])) '
        f'+ {by} (rate(nv_inference_request_failure{{job="{JOB}",reason!="CANCELED"}}[{short}]))'
    )
    stale_s = max(LEAST_STALE_S, timing.seconds(STALE_S))
    return (
        Alert(
            name="RfserveModelDead",
            expression="rfserve_canary_up == 0",
            holds_for=timing.text(30),
            severity=Severity.PAGE,
            works_with=WorksWith.RFSERVE,
            summary="{{ $labels.instance }}: {{ $labels.model }} does not answer its canaries",
            description="An instance is dead, or the model fails; Triton itself still calls it ready.",
        ),
        Alert(
            name="RfserveCanaryStale",
            expression=(
                f"time() - rfserve_canary_last_success_timestamp_seconds > {stale_s:.0f}\n"
                "and on (instance, model) rfserve_model_ready == 1\n"
                "and on (instance, model) rfserve_canary_up == 1"
            ),
            holds_for=timing.text(MINUTE_S),
            severity=Severity.PAGE,
            works_with=WorksWith.RFSERVE,
            summary="{{ $labels.instance }}: no canary of {{ $labels.model }} has been answered of late",
            description=(
                "The last one was {{ $value | humanizeDuration }} ago. The model is too busy to answer, or its watch "
                "stands still."
            ),
        ),
        Alert(
            name="RfserveModelNotReady",
            expression="rfserve_model_ready == 0",
            holds_for=timing.text(5 * MINUTE_S),
            severity=Severity.PAGE,
            works_with=WorksWith.RFSERVE,
            summary="{{ $labels.instance }}: {{ $labels.model }} is not served",
            description="It did not load, or was unloaded; other models go on.",
        ),
        Alert(
            name="RfserveInstanceFailing",
            expression=f"{by} ({failed}) / ({every}) > {FAILING_SHARE}",
            holds_for=timing.text(10 * MINUTE_S),
            severity=Severity.PAGE,
            works_with=WorksWith.ANY,
            summary="{{ $labels.instance }}: the backend of {{ $labels.model }} fails requests",
            description=(
                "{{ $value | humanizePercentage }} of its requests, for longer than mending takes: an instance is dead "
                "and keeps its share of them."
            ),
        ),
        Alert(
            name="RfserveStubsDying",
            expression=f"increase(rfserve_stubs_lost_total[{hour}]) >= {OFTEN - 0.5}",
            holds_for=timing.text(1),
            severity=Severity.TICKET,
            works_with=WorksWith.RFSERVE,
            summary="{{ $labels.instance }}: processes of {{ $labels.model }} die again and again",
            description=f"{{{{ $value | humanize }}}} within {hour}; each was mended, and requests failed meanwhile.",
        ),
    )


def _load(timing: Timing) -> tuple[Alert, ...]:
    hour, short = timing.text(HOUR_S), timing.text(5 * MINUTE_S)
    return (
        Alert(
            name="RfserveQueueGrowing",
            expression=(
                "sum by (instance, model) "
                f'(avg_over_time(nv_inference_pending_request_count{{job="{JOB}"}}[{short}]))\n'
                f"> on (model) group_left () {QUEUE_SHARE} * {QUEUE_LIMIT}"
            ),
            holds_for=timing.text(5 * MINUTE_S),
            severity=Severity.TICKET,
            works_with=WorksWith.ANY,
            summary="{{ $labels.instance }}: requests pile up before {{ $labels.model }}",
            description=(
                "On average {{ $value | humanize }} wait, over half of what the queue for normal requests holds: more "
                "comes than is answered."
            ),
        ),
        Alert(
            name="RfserveTailLatency",
            expression=(
                f"avg_over_time({SLOW_TAIL}[{hour}]) > {TAIL_SHARE}\n"
                f"and avg_over_time({SLOW_TAIL}[{short}]) > {TAIL_SHARE}"
            ),
            holds_for=timing.text(5 * MINUTE_S),
            severity=Severity.PAGE,
            works_with=WorksWith.SUMMARIES,
            summary="{{ $labels.instance }}: the p99 of {{ $labels.model }} is over its budget",
            description=f"For {{{{ $value | humanizePercentage }}}} of the last {hour}.",
        ),
    )


def _state(timing: Timing) -> tuple[Alert, ...]:
    window = timing.text(GROWTH_WINDOW_S)
    served = f"count by (model) (count by (model, instance) ({SERVED}))"
    return (
        Alert(
            name="RfserveVersionSkew",
            expression=f"count by (model, version) ({SERVED})\n< on (model) group_left () {served}",
            holds_for=timing.text(15 * MINUTE_S),
            severity=Severity.TICKET,
            works_with=WorksWith.ANY,
            summary="{{ $labels.model }}: only some servers serve version {{ $labels.version }}",
            description="{{ $value }} of them do, for longer than a release takes: who asks twice may get two answers.",
        ),
        Alert(
            name="RfserveMemoryGrowing",
            expression=(
                f"deriv({MEMORY}[{window}]) * {timing.seconds(GROWTH_WINDOW_S):.0f} "
                f"> {GROWTH_SHARE} * avg_over_time({MEMORY}[{window}])\n"
                f"and {MEMORY} offset {timing.text(2 * GROWTH_WINDOW_S)}\n"
                f"unless on (instance) changes(rfserve_server_start_time_seconds[{window}]) > 0"
            ),
            holds_for=timing.text(HOUR_S),
            severity=Severity.TICKET,
            works_with=WorksWith.ANY,
            summary="{{ $labels.instance }}{{ $labels.pod }}: memory grows",
            description=(
                f"{{{{ $value | humanize1024 }}}}B more in {window}, long after the start. Of Triton alone, Kubernetes "
                "knows the memory."
            ),
        ),
    )
