"""The autoscaler's rule: PromQL that says what it is to say, and neither flaps nor lags over recorded figures."""

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from autoscaler import START_S, STEP_S, Autoscaler, Pod, quantity, simulate
from rendering import FOLDER, ROOT

from rfserve.export.spec import GRAPHS, find
from rfserve.export.spec.model import TARGETS
from rfserve.export.spec.queueing import Priority, queue_limits

PROMTOOL = shutil.which("promtool", path=os.pathsep.join([str(ROOT / ".tools/usr/bin"), os.environ["PATH"]]))
RULES = FOLDER / "components" / "scale-on-queue-time" / "adapter-rules.yaml"
HOUR_S = 3600
SETTLED_S = 900


def adapter_queries() -> dict[str, str]:
    """What prometheus-adapter asks, by metric."""
    found = {}
    for rule in yaml.safe_load(RULES.read_text())["rules"]["custom"]:
        series = rule["seriesQuery"].partition("{")[0]
        query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        found[rule["name"]["as"]] = query.replace("<<.LabelMatchers>>", 'namespace="rfserve",pod=~"triton-.+"')
    return found


def keda_queries(manifests) -> list[str]:
    triggers = manifests("keda").one("ScaledObject")["spec"]["triggers"]
    return [t["metadata"]["query"] for t in triggers if t["type"] == "prometheus"]


@pytest.fixture
def specification(manifests) -> dict[str, Any]:
    return manifests("overlays/cpu").one("HorizontalPodAutoscaler")["spec"]


@pytest.fixture(scope="module")
def pod() -> Pod:
    limits = queue_limits(find("heimdall_net"), "cpu")
    return Pod.recorded(limits[Priority.NORMAL].timeout_ms)


def time_outs_us(query: str) -> dict[str, float]:
    pattern = r'label_replace\(vector\((\d+)\), "model", "(\w+)", "", ""\)'
    return {model: float(us) for us, model in re.findall(pattern, query)}


def test_time_outs_are_those_of_the_specs(manifests):
    queries = adapter_queries()
    for target in TARGETS:
        expected = {n: queue_limits(s, target)[Priority.NORMAL].timeout_ms * 1000 for n, s in GRAPHS.items()}
        assert time_outs_us(queries[f"rfserve_queue_share_{target}"]) == expected
        if target == "cpu":
            assert time_outs_us(keda_queries(manifests)[0]) == expected


@pytest.mark.parametrize("target", ["overlays/cpu", "overlays/gpu"])
def test_autoscaler_reads_metrics_that_the_adapter_gives(manifests, target):
    names = Autoscaler(specification=manifests(target).one("HorizontalPodAutoscaler")["spec"]).targets.keys()
    assert names - {"cpu"} <= adapter_queries().keys()


def test_keda_scales_as_the_autoscaler_does(manifests, specification):
    keda = manifests("keda").one("ScaledObject")["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == specification["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        specification["minReplicas"],
        specification["maxReplicas"],
    )
    goals = Autoscaler(specification=specification).targets
    by_use, by_queue = (t["metadata"] for t in keda["triggers"])
    assert float(by_use["value"]) / 100 == goals["cpu"]
    assert float(by_queue["threshold"]) == goals["rfserve_queue_share_cpu"]


SERIES = {
    # 10 requests a second that wait 37.5 ms each, half of what they may; one that hardly waits; one that idles.
    'nv_inference_queue_duration_us{model="heimdall_net",POD1}': "0+5625000x8",
    'nv_inference_request_success{model="heimdall_net",POD1}': "0+150x8",
    'nv_inference_queue_duration_us{model="mel_features",POD1}': "0+15000x8",
    'nv_inference_request_success{model="mel_features",POD1}': "0+150x8",
    'nv_inference_queue_duration_us{model="iq_features",POD1}': "0x8",
    'nv_inference_request_success{model="iq_features",POD1}': "0x8",
    # An ensemble counts what its steps count.
    'nv_inference_queue_duration_us{model="locate",POD1}': "0x8",
    'nv_inference_request_success{model="locate",POD1}': "0+150x8",
    # Another pod, which idles.
    'nv_inference_queue_duration_us{model="heimdall_net",POD2}': "0x8",
    'nv_inference_request_success{model="heimdall_net",POD2}': "0x8",
}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus has it)")
def test_queries_say_what_they_are_to_say(manifests, tmp_path: Path):
    """By Prometheus itself: half of what a request may wait, of the model that fares the worst."""
    share = adapter_queries()["rfserve_queue_share_cpu"]
    (keda_share,) = keda_queries(manifests)
    labels = 'namespace="rfserve",pod="triton-{}"'
    series = [
        {"series": name.replace("POD1", labels.format(1)).replace("POD2", labels.format(2)), "values": values}
        for name, values in SERIES.items()
    ]

    def expect(query: str, *samples: tuple[str, float]) -> dict[str, Any]:
        found = [{"labels": name, "value": value} for name, value in samples]
        return {"expr": query, "eval_time": "2m", "exp_samples": found}

    both = ('{pod="triton-1"}', '{pod="triton-2"}')
    cases = [
        expect(share, (both[0], 0.5), (both[1], 0)),
        expect(keda_share, ("{}", 0.5)),
    ]
    test = {
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": cases}],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus has it)")
@pytest.mark.parametrize("broken", [False, True])
def test_every_query_is_promql(manifests, tmp_path: Path, broken):
    queries = [*adapter_queries().values(), *keda_queries(manifests)]
    if broken:
        queries.append("sum by (pod (up)")
    rules = [{"record": f"query_{i}", "expr": query} for i, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == broken, done.stderr


def test_recorded_pod_is_a_pod(pod):
    """Queue time says nothing below capacity and much above it; CPU use grows in a straight line up to it."""
    low, high = (pod.figures(share * pod.capacity_hz)["rfserve_queue_share_cpu"] for share in (0.5, 1.5))
    assert low < 0.1
    assert high > 0.25
    per_request = [pod.figures(f * pod.capacity_hz)["cpu"] / f for f in (0.3, 0.5, 0.7)]
    assert max(per_request) < 1.35 * min(per_request)


@pytest.mark.parametrize("share", np.linspace(0.4, 9, 24).round(2))
def test_number_of_pods_settles_at_every_steady_load(specification, pod, share):
    course = simulate(specification, pod, lambda _: share * pod.capacity_hz, 2 * HOUR_S)
    after = [n for t, n in course.changes if t > SETTLED_S]
    # One that goes when its five minutes are over is no flapping; one that comes back is.
    assert course.reversals(within_s=2 * HOUR_S) <= 1
    assert sum(abs(n) for n in after) <= 3
    assert course.ready[-1] * pod.capacity_hz >= share * pod.capacity_hz or course.pods[-1] == 10


@pytest.mark.parametrize(("growth", "rounds"), [(2, 1), (5, 2)])
def test_pods_follow_a_load_that_grows_at_once(specification, pod, growth, rounds):
    """Up to 90 s to notice, and a pod's start, for each round: what is full cannot say how much too full it is."""
    low = 1.2 * pod.capacity_hz
    course = simulate(specification, pod, lambda t: growth * low if t > HOUR_S else low, 2 * HOUR_S)
    enough = next(i for i, n in enumerate(course.ready) if n * pod.capacity_hz >= growth * low and i * STEP_S > HOUR_S)
    lag_s = enough * STEP_S - HOUR_S
    print(f"{growth} times the load: enough pods after {lag_s} s, of which {rounds} x {START_S} s are their start")
    assert lag_s <= rounds * (START_S + 90)
    assert max(course.pods) <= 10


def test_pods_go_when_the_load_is_gone_and_not_before(specification, pod):
    load = 5 * pod.capacity_hz
    course = simulate(specification, pod, lambda t: load if t < HOUR_S else 0.8 * pod.capacity_hz, 2 * HOUR_S)
    at = {s: course.pods[int((HOUR_S + s) / STEP_S)] for s in (240, 1500)}
    assert at[240] == course.pods[int(HOUR_S / STEP_S) - 1]
    assert at[1500] <= 3


@pytest.mark.parametrize(("burst", "overload_limit"), [(1.0, 0.001), (1.5, 0.03)])
def test_day_has_no_flapping_and_little_overload(specification, pod, burst, overload_limit):
    """From a third of a pod to six and back; without bursts, and with half as much again for five minutes every hour.

    A burst is over before pods that it asks for have helped for long; what is left out by then is refused.
    """
    day_s = 24 * HOUR_S

    def load_hz(now_s: float) -> float:
        tide = 3.2 - 2.9 * np.cos(2 * np.pi * now_s / day_s)
        return float(pod.capacity_hz * tide * (burst if now_s % HOUR_S > HOUR_S - 300 else 1.0))

    course = simulate(specification, pod, load_hz, day_s)
    overloaded = course.overloaded_s(pod.capacity_hz) / day_s
    print(f"bursts of {burst}: overloaded {100 * overloaded:.2f} % of a day, {len(course.changes)} changes")
    assert course.reversals(within_s=300) <= (0 if burst == 1 else 2)
    assert overloaded < overload_limit


IN_FLIGHT = {"metric": {"name": "rfserve_requests_in_flight"}, "target": {"averageValue": "1200m"}}


@pytest.mark.parametrize("metric", ["queue time alone", "requests in flight"])
def test_what_is_no_straight_line_flaps(specification, pod, metric):
    """Why CPU use is there: the others fall by more than the pods grow, so that pods come and go for ever."""
    other = copy.deepcopy(specification)
    queue, _ = other["metrics"]
    other["metrics"] = [queue] if metric == "queue time alone" else [queue, {"type": "Pods", "pods": IN_FLIGHT}]
    course = simulate(other, pod, lambda _: 4 * pod.capacity_hz, 4 * HOUR_S)
    assert course.reversals(within_s=HOUR_S) >= 4


def test_policies_bound_each_step(specification):
    scaler = Autoscaler(specification=specification)
    high = dict.fromkeys(scaler.targets, 100.0)
    assert scaler.decide(0, 2, 2, high) == 4
    assert scaler.decide(15, 4, 4, high) == 4
    assert scaler.decide(30, 4, 4, high) == 8
    none = dict.fromkeys(scaler.targets, 0.0)
    assert scaler.decide(300, 8, 8, none) == 8
    assert scaler.decide(345, 8, 8, none) == 7
    assert scaler.decide(360, 7, 7, none) == 7


def test_quantities_are_numbers():
    assert (quantity("250m"), quantity("8")) == (0.25, 8.0)
