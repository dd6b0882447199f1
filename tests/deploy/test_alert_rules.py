"""Each alert fires when it should, alone, and not when it should not: Prometheus' own unit tests of the rules."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import yaml
from prometheus_tools import MISSING, ROOT, tool

from rfserve.export.observability.budget_rules import SHARES, bound_text, budget_ms
from rfserve.export.observability.files import rule_groups
from rfserve.export.observability.rule import Alert
from rfserve.export.observability.timing import Timing
from rfserve.export.spec import MODELS, find
from rfserve.export.spec.queueing import Priority, queue_limits

RULES = ROOT / "deploy" / "observability" / "prometheus"
DEVICE = "cpu-2core"
INSTANCES, MODEL, ENSEMBLE = ("a", "b"), "heimdall_net", "locate"
SERVED = (MODEL, ENSEMBLE)
# Until the end of a case.
LONG = 10_000
MINUTELY = 600
REASONS = ("BACKEND", "CANCELED", "OTHER", "REJECTED")
LIMIT = queue_limits(find(MODEL), "cpu")[Priority.NORMAL].size
Series = dict[str, str]


def up_to(total: float, *, begins: int = 0) -> str:
    """A counter that grows so much a minute, from that minute on."""
    before = f"0x{begins - 1} " if begins else ""
    return f"{before}0+{total:g}x{LONG}"


def always(value: float) -> str:
    return f"{value:g}x{LONG}"


def latency(model: str, instance: str, over: Mapping[str, float]) -> Series:
    """A histogram of `MINUTELY` answers a minute, of which these shares are over the model's budgets."""
    found, budget = {}, find(model).budgets[DEVICE]
    name = "rfserve_request_latency_seconds"
    for slo in ("p50", "p95", "p99"):
        labels = f'{{instance="{instance}",model="{model}",version="1",le="{bound_text(budget_ms(budget, slo))}"}}'
        found[f"{name}_bucket{labels}"] = up_to(MINUTELY * (1 - over.get(slo, 0.001)))
    found[f'{name}_bucket{{instance="{instance}",model="{model}",version="1",le="+Inf"}}'] = up_to(MINUTELY)
    found[f'{name}_count{{instance="{instance}",model="{model}",version="1"}}'] = up_to(MINUTELY)
    return found


def triton(model: str, instance: str, *, failed: Mapping[str, float] | None = None, version: str = "1") -> Series:
    """Triton's counters, with the share that failed by reason."""
    failed = failed or {}
    labels = f'instance="{instance}",job="rfserve",model="{model}",version="{version}"'
    found = {f"nv_inference_request_success{{{labels}}}": up_to(MINUTELY * (1 - sum(failed.values())))}
    for reason in REASONS:
        name = f'nv_inference_request_failure{{{labels},reason="{reason}"}}'
        found[name] = up_to(MINUTELY * failed.get(reason, 0))
    found[f"nv_inference_pending_request_count{{{labels}}}"] = always(0)
    return found


def own(model: str, instance: str) -> Series:
    """What `rfserve-server run` adds for a model."""
    by = f'instance="{instance}",job="rfserve",model="{model}"'
    found = latency(model, instance, {})
    for reason in ("refused", "error"):
        found[f'rfserve_requests_failed_total{{{by},version="1",reason="{reason}"}}'] = up_to(0)
    found[f"rfserve_canary_up{{{by}}}"] = always(1)
    found[f"rfserve_canary_last_success_timestamp_seconds{{{by}}}"] = up_to(60)
    found[f"rfserve_model_ready{{{by}}}"] = always(1)
    found[f'rfserve_model_version_served{{{by},version="1"}}'] = always(1)
    found[f"rfserve_stubs_lost_total{{{by}}}"] = always(0)
    return found


def healthy(*, stock: bool = False) -> Series:
    """Two servers that are well; `stock` ones have Triton's metrics alone."""
    found = {}
    for instance in INSTANCES:
        by = f'{{instance="{instance}",job="rfserve"}}'
        found[f"up{by}"] = always(1)
        for model in SERVED:
            found |= triton(model, instance)
            if not stock:
                found |= own(model, instance)
        if not stock:
            found[f"rfserve_triton_metrics_up{by}"] = always(1)
            found[f"rfserve_server_start_time_seconds{by}"] = always(1)
            found[f'rfserve_resident_memory_bytes{{instance="{instance}",job="rfserve",process="stubs"}}'] = always(1e9)
    return found


def without(series: Series, *parts: str) -> Series:
    return {name: values for name, values in series.items() if not any(part in name for part in parts)}


def at_a(name: str, model: str = MODEL, more: str = "") -> str:
    """A series of one model at the first server."""
    return f'{name}{{instance="a",job="rfserve",model="{model}"{more}}}'


def both(make, model: str, **options) -> Series:
    return {k: v for instance in INSTANCES for k, v in make(model, instance, **options).items()}


BURN, ERRORS = "RfserveLatencyBudgetBurn", "RfserveErrorBudgetBurn"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series in which something is so, after so many minutes, and the alerts that fire: (name, window)."""

    name: str
    changes: Series = field(default_factory=dict)
    base: Series = field(default_factory=healthy)
    minutes: int = 20
    fires: frozenset[str] = frozenset()
    step: str = "1m"
    evaluated: str = "1m"


def spike(minutes: int, calm: int, over: float) -> str:
    """A counter of good answers: calm, then `minutes` in which a share is not good, then calm again."""
    good = MINUTELY * (1 - over)
    first = MINUTELY * calm
    second = first + good * minutes
    return f"0+{MINUTELY}x{calm} {first + good:g}+{good:g}x{minutes - 1} {second + MINUTELY:g}+{MINUTELY}x{LONG}"


P99_BUCKETS = [
    name for name in both(latency, MODEL, over={}) if f'le="{bound_text(find(MODEL).budgets[DEVICE].p99_ms)}"' in name
]
STOCK = healthy(stock=True)
SUMMARY = at_a("nv_inference_request_summary_us", more=',version="1",quantile="0.99"')
P99_US = find(MODEL).budgets[DEVICE].p99_ms * 1e3
# The longest that a budget alert has to hold for, and less often, as a budget has many rules.
AN_HOUR = {"minutes": 75, "evaluated": "2m"}
A_DAY = {"base": {'up{job="rfserve"}': always(1)}, "minutes": 26 * 60, "step": "10m", "evaluated": "30m"}
MEMORY = 'rfserve_resident_memory_bytes{instance="a",job="rfserve",process="stubs"}'
POD = 'container_memory_working_set_bytes{namespace="rfserve",pod="triton-1",container="triton"}'


def fires(*names: str) -> dict[str, frozenset[str]]:
    return {"fires": frozenset(names)}


FAST = (f"{BURN} 1h", f"{BURN} 6h", f"{BURN} 3d")
FAST_ERRORS = (f"{ERRORS} 1h", f"{ERRORS} 6h", f"{ERRORS} 3d")
CASES = [
    Case(name="all is well", **AN_HOUR),
    Case(name="all is well on NVIDIA's image", base=STOCK, **AN_HOUR),
    # Latency budgets.
    Case(name="a fifth over p99", changes=both(latency, MODEL, over={"p99": 0.2}), **AN_HOUR, **fires(*FAST)),
    Case(name="a tenth over p99", changes=both(latency, MODEL, over={"p99": 0.1}), **AN_HOUR, **fires(*FAST[1:])),
    Case(name="2 % over p99", changes=both(latency, MODEL, over={"p99": 0.02}), **AN_HOUR, **fires(FAST[2])),
    Case(name="0.9 % over p99", changes=both(latency, MODEL, over={"p99": 0.009}), **AN_HOUR),
    Case(name="three quarters over p95", changes=both(latency, MODEL, over={"p95": 0.75}), **AN_HOUR, **fires(*FAST)),
    Case(name="4 % over p95", changes=both(latency, MODEL, over={"p95": 0.04}), **AN_HOUR),
    Case(name="60 % over p50", changes=both(latency, MODEL, over={"p50": 0.6}), **AN_HOUR, **fires(FAST[2])),
    # Nearly alike answers that are a tenth slower are all over p50: no reason to get up, while p95 and p99 hold.
    Case(name="all over p50", changes=both(latency, MODEL, over={"p50": 1}), **AN_HOUR, **fires(FAST[2])),
    Case(name="4 % within p95", changes=both(latency, MODEL, over={"p50": 1, "p95": 0.96}), **AN_HOUR, **fires(*FAST)),
    Case(name="40 % over p50", changes=both(latency, MODEL, over={"p50": 0.4}), **AN_HOUR),
    Case(name="an ensemble over p99", changes=both(latency, ENSEMBLE, over={"p99": 0.2}), **AN_HOUR, **fires(*FAST)),
    Case(name="one of two servers slow", changes=latency(MODEL, "a", {"p99": 0.4}), **AN_HOUR, **fires(*FAST)),
    Case(
        name="three slow minutes that are over",
        changes=dict.fromkeys(P99_BUCKETS, spike(3, 65, 1)),
        **AN_HOUR,
    ),
    Case(
        name="twenty slow minutes that are over since half an hour",
        changes=dict.fromkeys(P99_BUCKETS, spike(20, 20, 1)),
        **AN_HOUR,
    ),
    Case(
        name="a few slow requests in a quiet night",
        changes={
            k: (f"0x60 0.2+0.2x{LONG}" if "+Inf" in k or "_count" in k else always(0))
            for k in both(latency, MODEL, over={})
        },
        **AN_HOUR,
    ),
    # Error budgets, as rfserve-server run counts them.
    Case(
        name="a fifth refused",
        changes={at_a("rfserve_requests_failed_total", more=',version="1",reason="refused"'): up_to(300)},
        **AN_HOUR,
        **fires(*FAST_ERRORS),
    ),
    Case(
        name="0.8 % refused",
        changes={at_a("rfserve_requests_failed_total", more=',version="1",reason="refused"'): up_to(10)},
        **AN_HOUR,
    ),
    Case(
        name="an ensemble's errors",
        changes={at_a("rfserve_requests_failed_total", ENSEMBLE, ',version="1",reason="error"'): up_to(300)},
        **AN_HOUR,
        **fires(*FAST_ERRORS),
    ),
    Case(
        name="what Triton counts does not matter beside our own counters",
        changes=both(triton, MODEL, failed={"REJECTED": 0.3}),
        **AN_HOUR,
    ),
    # And as Triton does.
    Case(
        name="a fifth expired on NVIDIA's image",
        base=STOCK,
        changes=both(triton, MODEL, failed={"REJECTED": 0.2}),
        **AN_HOUR,
        **fires(*FAST_ERRORS),
    ),
    Case(
        name="half cancelled on NVIDIA's image",
        base=STOCK,
        changes=both(triton, MODEL, failed={"CANCELED": 0.5}),
        **AN_HOUR,
    ),
    Case(
        name="an ensemble's failures on NVIDIA's image, which Triton counts twice and cancelled ones with them",
        base=STOCK,
        changes=both(triton, ENSEMBLE, failed={"OTHER": 0.9}),
        **AN_HOUR,
    ),
    # Servers.
    Case(
        name="a server is gone",
        changes={'up{instance="a",job="rfserve"}': f"1x10 0x{LONG}"},
        **fires("RfserveServerDown"),
    ),
    Case(
        name="a server missed one scrape",
        changes={'up{instance="a",job="rfserve"}': f"1x18 0 1x{LONG}"},
    ),
    Case(
        name="a new server loads its models for nine minutes",
        changes={'up{instance="c",job="rfserve"}': f"_x4 0x{LONG}"},
        minutes=13,
    ),
    Case(
        name="a new server does not come up",
        changes={'up{instance="c",job="rfserve"}': f"_x4 0x{LONG}"},
        **fires("RfserveServerDown"),
    ),
    Case(name="no server at all", base={'up{job="other"}': always(1)}, **fires("RfserveNoServers")),
    Case(
        name="a model is dead",
        changes={at_a("rfserve_canary_up"): f"1x10 0x{LONG}"},
        **fires("RfserveModelDead"),
    ),
    Case(
        name="a model was dead and is mended",
        changes={
            at_a("rfserve_canary_up"): f"1x17 0 1x{LONG}",
            at_a("rfserve_stubs_lost_total"): f"0x16 1x{LONG}",
        },
    ),
    Case(
        name="no canary is answered any more",
        changes={at_a("rfserve_canary_last_success_timestamp_seconds"): f"0+60x10 600x{LONG}"},
        **fires("RfserveCanaryStale"),
    ),
    Case(
        name="no canary for three minutes",
        changes={at_a("rfserve_canary_last_success_timestamp_seconds"): f"0+60x17 1020x{LONG}"},
    ),
    Case(
        name="a model is not served",
        changes={
            at_a("rfserve_model_ready"): f"1x10 0x{LONG}",
            at_a("rfserve_canary_last_success_timestamp_seconds"): f"0+60x10 600x{LONG}",
        },
        **fires("RfserveModelNotReady"),
    ),
    Case(
        name="a model is being loaded",
        changes={at_a("rfserve_model_ready"): f"1x18 0x{LONG}"},
    ),
    Case(
        name="an instance is dead on NVIDIA's image",
        base=STOCK,
        changes=triton(MODEL, "a", failed={"BACKEND": 0.25}),
        minutes=30,
        **fires("RfserveInstanceFailing", f"{ERRORS} 6h"),
    ),
    Case(
        name="an instance was dead for a moment",
        base=STOCK,
        changes={
            at_a("nv_inference_request_failure", more=',version="1",reason="BACKEND"'): f"0x12 200x{LONG}",
        },
        minutes=17,
    ),
    Case(
        name="processes die again and again",
        changes={at_a("rfserve_stubs_lost_total"): f"0x5 1x5 2x5 3x{LONG}"},
        **fires("RfserveStubsDying"),
    ),
    Case(
        name="two processes died",
        changes={at_a("rfserve_stubs_lost_total"): f"0x5 1x5 2x{LONG}"},
    ),
    Case(
        name="a server starts again and again",
        changes={'rfserve_server_start_time_seconds{instance="a",job="rfserve"}': f"1x5 2x5 3x5 4x{LONG}"},
        **fires("RfserveRestarting"),
    ),
    Case(
        name="a server was restarted twice",
        changes={'rfserve_server_start_time_seconds{instance="a",job="rfserve"}': f"1x5 2x5 3x{LONG}"},
    ),
    # Load.
    Case(
        name="a queue fills",
        changes={at_a("nv_inference_pending_request_count", more=',version="1"'): f"0x5 {LIMIT * 0.6:g}x{LONG}"},
        **fires("RfserveQueueGrowing"),
    ),
    Case(
        name="a queue was full for a minute",
        changes={at_a("nv_inference_pending_request_count", more=',version="1"'): f"0x14 {LIMIT} 0x{LONG}"},
    ),
    Case(
        name="a queue holds a few",
        changes={at_a("nv_inference_pending_request_count", more=',version="1"'): always(LIMIT * 0.4)},
    ),
    Case(
        name="p99 over its budget on NVIDIA's image",
        base={**STOCK, SUMMARY: always(P99_US * 1.1)},
        **fires("RfserveTailLatency"),
    ),
    Case(name="p99 within its budget on NVIDIA's image", base={**STOCK, SUMMARY: always(P99_US * 0.9)}),
    Case(name="summaries do not matter beside a histogram", changes={SUMMARY: always(P99_US * 1.1)}),
    # State.
    Case(
        name="servers of two versions",
        minutes=25,
        changes={
            at_a("rfserve_model_version_served", more=',version="1"'): "1x3 stale",
            at_a("rfserve_model_version_served", more=',version="2"'): f"_x3 1x{LONG}",
        },
        **fires("RfserveVersionSkew"),
    ),
    Case(
        name="a release of ten minutes",
        minutes=25,
        changes={
            at_a("rfserve_model_version_served", more=',version="1"'): "1x14 stale",
            at_a("rfserve_model_version_served", more=',version="2"'): f"_x14 1x{LONG}",
        },
    ),
    Case(
        name="a model at one server only",
        base=without(healthy(), f'instance="b",job="rfserve",model="{ENSEMBLE}"'),
    ),
    Case(
        name="servers of two versions of NVIDIA's image",
        minutes=25,
        base={**STOCK, **{k: f"{MINUTELY}x{LONG}" for k in triton(MODEL, "a") if "success" in k}},
        changes=triton(MODEL, "a", version="2"),
        **fires("RfserveVersionSkew"),
    ),
    Case(
        name="counters of an old version stay at one server",
        minutes=25,
        base={
            **without(STOCK, f'model="{MODEL}"'),
            **{k: f"{MINUTELY}x{LONG}" for k in triton(MODEL, "a") if "success" in k},
        },
        changes=both(triton, MODEL, version="2"),
    ),
    Case(
        name="memory grows by 2 % an hour",
        changes={MEMORY: f"1e9+3333333x{LONG}"},
        **A_DAY,
        **fires("RfserveMemoryGrowing"),
    ),
    Case(
        name="a container's memory grows",
        **{**A_DAY, "base": {**A_DAY["base"], POD: f"1e9+3333333x{LONG}"}},
        **fires("RfserveMemoryGrowing"),
    ),
    Case(
        name="the memory of somebody else's Triton grows",
        **{**A_DAY, "base": {**A_DAY["base"], POD.replace('"rfserve"', '"theirs"'): f"1e9+3333333x{LONG}"}},
    ),
    Case(name="memory grows by 0.2 % an hour", changes={MEMORY: f"1e9+333333x{LONG}"}, **A_DAY),
    Case(
        name="memory grows for an hour after the start",
        changes={MEMORY: f"1e9+200000000x6 2.2e9x{LONG}"},
        **{**A_DAY, "minutes": 4 * 60},
    ),
]


def document(case: Case) -> dict:
    series = {**case.base, **case.changes}
    samples = [_sample(name) for name in sorted(case.fires)]
    return {
        "name": case.name,
        "interval": case.step,
        "input_series": [
            {"series": name, "values": values.replace(f"x{LONG}", f"x{case.minutes + 1}")}
            for name, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'group by (alertname, window) (ALERTS{alertstate="firing"})',
                "eval_time": f"{case.minutes}m",
                "exp_samples": samples,
            }
        ],
    }


def _sample(name: str) -> dict:
    alert, _, window = name.partition(" ")
    labels = f'alertname="{alert}"' + (f',window="{window}"' if window else "")
    return {"labels": f"{{{labels}}}", "value": 1}


@pytest.mark.parametrize(("window", "slos"), [("1h", "p95|p99"), ("6h", "p95|p99"), ("3d", "p50|p95|p99")])
def test_no_latency_alert_waits_for_more_answers_than_there_are(window, slos):
    """14.4 times what p50 allows would be 7.2 of all answers."""
    (alert,) = (a for a in alerts() if a.name == BURN and a.labels["window"] == window)
    thresholds = re.findall(r'> on \(model, slo\) (\S+) \* max .*:share(?:{slo=~"(.*)"})?\)', alert.expression)
    assert [chosen for _, chosen in thresholds] == [slos] * 2
    assert all(float(factor) * SHARES[slo] < 1 for factor, chosen in thresholds for slo in chosen.split("|"))


@pytest.fixture(scope="module")
def promtool() -> str:
    found = tool("promtool")
    if found is None:
        pytest.skip(f"promtool {MISSING}")
    return found


@cache
def alerts() -> list[Alert]:
    return [r for g in rule_groups(Timing()) for r in g.rules if isinstance(r, Alert)]


def test_every_alert_has_a_case_in_which_it_fires():
    assert {name.partition(" ")[0] for case in CASES for name in case.fires} == {alert.name for alert in alerts()}


@pytest.mark.parametrize("evaluated", sorted({case.evaluated for case in CASES}))
def test_alerts_fire_when_they_should_and_only_then(promtool, tmp_path: Path, evaluated):
    rules = [str(RULES / "rules.yaml"), str(RULES / f"budgets-{DEVICE}.yaml")]
    tests = [document(case) for case in CASES if case.evaluated == evaluated]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": evaluated, "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", sorted(RULES.glob("*.yaml")), ids=lambda f: f.name)
def test_promtool_accepts(promtool, file: Path):
    kind = "config" if file.name == "prometheus.yaml" else "rules"
    done = subprocess.run(
        [promtool, "check", kind, "--lint=all", "--lint-fatal", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_budgets_name_every_model():
    groups = yaml.safe_load((RULES / f"budgets-{DEVICE}.yaml").read_text())["groups"]
    assert {rule["labels"]["model"] for group in groups for rule in group["rules"]} == set(MODELS)
