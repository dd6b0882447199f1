"""The Grafana dashboard: every budget as a line in the panel of what it bounds.

Requests are never summed over models: an ensemble's come again as those of its steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rfserve.export.observability import budget_rules as budget
from rfserve.export.observability import health_rules as health
from rfserve.export.observability.rule import JOB
from rfserve.export.spec import ENSEMBLES, MODELS

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_RATE = "[$__rate_interval]"
_OURS, _TRITON = '{model=~"$model"}', f'{{job="{JOB}",model=~"$model"}}'
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A graph over time. `queries` are a PromQL expression and a legend each; budgets are drawn dashed."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    budgets: tuple[tuple[str, str], ...] = ()
    text: str = ""


def _by_model(expression: str) -> str:
    return f"sum by (model) (rate({expression}{_RATE}))"


def _mean(total: str, count: str) -> str:
    """Over all servers: the mean of their means would count idle ones as much as busy ones."""
    return f"{_by_model(total + _TRITON)} / {_by_model(count + _TRITON)}"


def _quantile(quantile: float) -> str:
    buckets = f"sum by (model, le) (rate(rfserve_request_latency_seconds_bucket{_OURS}{_RATE}))"
    return f"histogram_quantile({quantile}, {buckets})"


ENSEMBLE_NAMES = "|".join(ENSEMBLES)
PANELS = (
    Panel(
        title="Servers that answer",
        unit="none",
        queries=((f'up{{job="{JOB}"}}', "{{instance}}"), ("rfserve_triton_metrics_up", "Triton of {{instance}}")),
    ),
    Panel(
        title="Canaries: 1 when the model answers",
        unit="none",
        queries=((f"min by (model, instance) (rfserve_canary_up{_OURS})", "{{model}} {{instance}}"),),
    ),
    Panel(
        title="Answers a second",
        unit="reqps",
        queries=((_by_model(f"rfserve_request_latency_seconds_count{_OURS}"), "{{model}}"),),
        text=f"A request to an ensemble ({ENSEMBLE_NAMES.replace('|', ', ')}) is one to each of its steps as well.",
    ),
    Panel(
        title="Answers a second, as Triton counts them",
        unit="reqps",
        queries=((_by_model(f"nv_inference_request_success{_TRITON}"), "{{model}}"),),
        text="With canaries and warm-ups.",
    ),
    Panel(
        title="Share of requests that fail",
        unit="percentunit",
        queries=((f"{budget.FAILED}5m{_OURS}", "{{model}} ({{source}})"),),
        budgets=((f"max by (model) ({budget.ERROR_SHARE}{_OURS})", "{{model}} budget"),),
    ),
    Panel(
        title="Failed requests a second, by reason",
        unit="reqps",
        queries=(
            (f"sum by (model, reason) (rate(rfserve_requests_failed_total{_OURS}{_RATE}))", "{{model}} {{reason}}"),
        ),
    ),
    *(
        Panel(
            title=f"Latency, {slo}",
            unit="s",
            queries=((_quantile(quantile), "{{model}}"),),
            budgets=((f'max by (model) ({budget.LATENCY_S}{{slo="{slo}",model=~"$model"}})', "{{model}} budget"),),
        )
        for slo, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    ),
    Panel(
        title="p99 of each server, as Triton's summaries have it",
        unit="s",
        queries=(
            (
                "max by (model, instance) "
                f'(nv_inference_request_summary_us{{job="{JOB}",model=~"$model",quantile="0.99"}}) / 1e6',
                "{{model}} {{instance}}",
            ),
        ),
        budgets=((f'max by (model) ({budget.LATENCY_S}{{slo="p99",model=~"$model"}})', "{{model}} budget"),),
        text="NVIDIA's image with --metrics-config=summary_latencies=true, which has no histogram. Never add them up.",
    ),
    Panel(
        title="Share of answers over their budget",
        unit="percentunit",
        queries=((f"{budget.OVER}5m{_OURS}", "{{model}} {{slo}}"),),
        budgets=((f"max by (slo) ({budget.LATENCY_SHARE}{_OURS})", "allowed at {{slo}}"),),
    ),
    Panel(
        title="How fast latency budgets burn, last hour",
        unit="none",
        queries=(
            (
                f"{budget.OVER}1h{_OURS} / on (model, slo) max by (model, slo) ({budget.LATENCY_SHARE}{_OURS})",
                "{{model}} {{slo}}",
            ),
        ),
        budgets=(("vector(1)", "used up in 30 days"), ("vector(14.4)", "pages")),
    ),
    Panel(
        title="How fast error budgets burn, last hour",
        unit="none",
        queries=(
            (
                f"{budget.FAILED}1h{_OURS} / on (model) group_left () max by (model) ({budget.ERROR_SHARE}{_OURS})",
                "{{model}} ({{source}})",
            ),
        ),
        budgets=(("vector(1)", "used up in 30 days"), ("vector(14.4)", "pages")),
    ),
    Panel(
        title="Requests that wait",
        unit="none",
        queries=(
            (f"sum by (model, instance) (nv_inference_pending_request_count{_TRITON})", "{{model}} {{instance}}"),
        ),
        budgets=((f"max by (model) ({budget.QUEUE_LIMIT}{_OURS})", "{{model}} refuses above"),),
    ),
    Panel(
        title="Mean wait before a model",
        unit="µs",
        queries=((_mean("nv_inference_queue_duration_us", "nv_inference_request_success"), "{{model}}"),),
    ),
    Panel(
        title="Mean time of a request, as Triton counts it",
        unit="µs",
        queries=((_mean("nv_inference_request_duration_us", "nv_inference_request_success"), "{{model}}"),),
    ),
    Panel(
        title="Rows of a batch",
        unit="none",
        queries=((_mean("nv_inference_count", "nv_inference_exec_count"), "{{model}}"),),
    ),
    Panel(
        title="Busy: requests in flight",
        unit="none",
        queries=(
            (
                "sum by (instance) (rate(nv_inference_request_duration_us"
                f'{{job="{JOB}",model=~"$model",model!~"{ENSEMBLE_NAMES}"}}{_RATE})) / 1e6',
                "{{instance}}",
            ),
        ),
        text="Without ensembles, whose steps are counted.",
    ),
    Panel(
        title="Versions that answer, by number of servers",
        unit="none",
        queries=((f"count by (model, version) ({health.SERVED}{_OURS})", "{{model}} version {{version}}"),),
    ),
    Panel(
        title="Memory",
        unit="bytes",
        queries=((health.MEMORY, "{{instance}}{{pod}}"),),
    ),
    Panel(
        title="Processes lost, models mended, restarts, per hour",
        unit="none",
        queries=(
            (f"sum by (model) (increase(rfserve_stubs_lost_total{_OURS}[1h]))", "{{model}} lost"),
            (f"sum by (model) (increase(rfserve_mends_total{_OURS}[1h]))", "{{model}} mended"),
            ("changes(rfserve_server_start_time_seconds[1h])", "{{instance}} restarts"),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """As Grafana imports it. It picks its data source and its models itself."""
    return {
        "uid": "rfserve",
        "title": "rfserve",
        "tags": ["rfserve", "triton"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_firing()]},
        "panels": [_panel(index, panel) for index, panel in enumerate(PANELS)],
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield {
        "name": "model",
        "label": "Model",
        "type": "custom",
        "query": ",".join(MODELS),
        "options": [{"text": n, "value": n, "selected": False} for n in MODELS],
        "current": {"text": ["All"], "value": ["$__all"]},
        "multi": True,
        "includeAll": True,
    }


def _firing() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Rfserve.*",alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{model}} {{instance}}",
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, 2)
    queries = [*panel.queries, *panel.budgets]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0},
            "overrides": [
                {
                    "matcher": {"id": "byFrameRefID", "options": chr(ord("A") + i)},
                    "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}}],
                }
                for i in range(len(panel.queries), len(queries))
            ],
        },
        "options": {"legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"]}},
    }
