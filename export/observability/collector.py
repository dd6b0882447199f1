"""The configuration of an OpenTelemetry collector: it keeps the traces that say something, by the specs' budgets."""

from typing import Any

from rfserve.export.spec import MODELS

# Where `rfserve-server run --trace-url` and OpenTelemetry's libraries send by default.
HTTP_PORT, GRPC_PORT = 4318, 4317
KEPT_PERCENT = 1


def collector(device: str) -> dict[str, Any]:
    """Spans of servers and clients in, to the backend that `OTLP_ENDPOINT` names. Kept are the traces in which a
    model's own span took longer than its p99 budget, all that a caller's own span calls failed, and of the rest one in
    a hundred.

    A trace of an ensemble has a span of each step, so that the length of the whole trace (the policy `latency`) says
    nothing of a model. `tail_sampling` is in the collector's contrib distribution; its conditions are OTTL's.
    """
    slow = [
        {
            "name": f"slow-{spec.name}",
            "type": "ottl_condition",
            # A span that the condition cannot be asked of is not slow.
            "ottl_condition": {"error_mode": "ignore", "span": [_slower_than(spec.name, spec.budgets[device].p99_ms)]},
        }
        for spec in MODELS.values()
    ]
    policies = [
        {"name": "failed", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}},
        *slow,
        {"name": "rest", "type": "probabilistic", "probabilistic": {"sampling_percentage": KEPT_PERCENT}},
    ]
    return {
        "receivers": {
            "otlp": {
                "protocols": {
                    "http": {"endpoint": f"${{env:LISTEN_ADDRESS}}:{HTTP_PORT}"},
                    "grpc": {"endpoint": f"${{env:LISTEN_ADDRESS}}:{GRPC_PORT}"},
                }
            }
        },
        "processors": {
            "memory_limiter": {"check_interval": "1s", "limit_mib": 400, "spike_limit_mib": 100},
            "tail_sampling": {"decision_wait": "10s", "num_traces": 50_000, "policies": policies},
            "batch": {"timeout": "1s"},
        },
        "exporters": {"otlp": {"endpoint": "${env:OTLP_ENDPOINT}", "sending_queue": {"queue_size": 1000}}},
        "extensions": {"health_check": {"endpoint": "${env:LISTEN_ADDRESS}:13133"}},
        "service": {
            "extensions": ["health_check"],
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": ["memory_limiter", "tail_sampling", "batch"],
                    "exporters": ["otlp"],
                }
            },
        },
    }


def _slower_than(model: str, limit_ms: float) -> str:
    limit_ns = round(limit_ms * 1e6)
    return f'attributes["triton.model_name"] == "{model}" and end_time_unix_nano - start_time_unix_nano > {limit_ns}'
