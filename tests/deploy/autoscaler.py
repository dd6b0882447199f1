"""Kubernetes' horizontal autoscaler, as its documentation and source have it, over pods that fare as a recorded one."""

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).with_name("recorded_load.json")
STEP_S = 15
TOLERANCE = 0.1
# A rate over a minute, of scrapes 15 s apart, that the adapter and the autoscaler read some 15 s later.
WINDOW_S, LAG_S = 60, 30
# Scheduled, models copied and verified, loaded and warmed up, `minReadySeconds`.
START_S = 90


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What a pod says of itself at a load, from the recorded one; requests a second."""

    points: Sequence[Mapping[str, float]]
    timeout_ms: float

    @classmethod
    def recorded(cls, timeout_ms: float) -> "Pod":
        return cls(points=json.loads(RECORDED.read_text())["points"], timeout_ms=timeout_ms)

    @property
    def capacity_hz(self) -> float:
        """The most that was answered with less than 2 % refused."""
        return max(p["answered_hz"] for p in self.points if p["answered_hz"] > 0.98 * p["offered_hz"])

    @property
    def usable_cores(self) -> float:
        """What the server used when it could use all that it had: where it was recorded, its load had the rest."""
        return max(p["cpu_cores"] for p in self.points)

    def figures(self, offered_hz: float) -> dict[str, float]:
        """The autoscaler's metrics by name."""
        return {
            "rfserve_queue_share_cpu": self._at(offered_hz, "queue_ms") / self.timeout_ms,
            "rfserve_requests_in_flight": self._at(offered_hz, "in_flight") + self._at(offered_hz, "pending"),
            "cpu": self._at(offered_hz, "cpu_cores") / self.usable_cores,
        }

    def _at(self, offered_hz: float, name: str) -> float:
        offered = [0.0, *(p["offered_hz"] for p in self.points)]
        return float(np.interp(offered_hz, offered, [0.0, *(p[name] for p in self.points)]))


@dataclass(kw_only=True)
class Autoscaler:
    """The controller of one HorizontalPodAutoscaler specification. Figures are means over the pods that are ready."""

    specification: Mapping[str, Any]
    changes: list[tuple[float, int]] = field(default_factory=list)
    _recommended: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def targets(self) -> dict[str, float]:
        found = {}
        for metric in self.specification["metrics"]:
            if metric["type"] == "Pods":
                found[metric["pods"]["metric"]["name"]] = quantity(metric["pods"]["target"]["averageValue"])
            else:
                of = metric["containerResource"]
                found[of["name"]] = of["target"]["averageUtilization"] / 100
        return found

    def decide(self, now_s: float, pods: int, ready: int, figures: Mapping[str, float]) -> int:
        """The number of pods to have, of which there are `pods` now."""
        wanted = max(self._proposed(pods, ready, figures[name] / goal) for name, goal in self.targets.items())
        least, most = self.specification["minReplicas"], self.specification["maxReplicas"]
        self._recommended.append((now_s, min(most, max(least, wanted))))
        behavior = self.specification["behavior"]
        low = self._stabilized(now_s, behavior["scaleUp"]["stabilizationWindowSeconds"], min)
        high = self._stabilized(now_s, behavior["scaleDown"]["stabilizationWindowSeconds"], max)
        chosen = min(max(pods, low), high) if high < pods else max(pods, low)
        if chosen > pods:
            chosen = min(chosen, self._bound(now_s, pods, behavior["scaleUp"], 1))
        elif chosen < pods:
            chosen = max(chosen, self._bound(now_s, pods, behavior["scaleDown"], -1))
        if chosen != pods:
            self.changes.append((now_s, chosen - pods))
        return chosen

    @staticmethod
    def _proposed(pods: int, ready: int, ratio: float) -> int:
        if abs(ratio - 1) <= TOLERANCE:
            return pods
        if ready == pods or ratio < 1:
            # Pods that are not ready yet count as being on target when there may be too many.
            ratio = (ratio * ready + (pods - ready)) / pods
            return math.ceil(ratio * pods) if abs(ratio - 1) > TOLERANCE else pods
        # And as idle when there may be too few.
        ratio = ratio * ready / pods
        return math.ceil(ratio * pods) if ratio > 1 + TOLERANCE else pods

    def _stabilized(self, now_s: float, window_s: float, choose: Callable[[list[int]], int]) -> int:
        return choose([n for t, n in self._recommended if t >= now_s - window_s])

    def _bound(self, now_s: float, pods: int, rules: Mapping[str, Any], sign: int) -> int:
        bounds = []
        for policy in rules["policies"]:
            recent = sum(n for t, n in self.changes if n * sign > 0 and t > now_s - policy["periodSeconds"])
            start = pods - recent
            step = policy["value"] if policy["type"] == "Pods" else math.ceil(start * policy["value"] / 100)
            bounds.append(start + sign * step)
        return max(bounds) if (sign > 0) else min(bounds)


@dataclass(frozen=True, kw_only=True)
class Course:
    """What came of it: the pods that there were and that were ready, and the load, every `STEP_S`."""

    pods: list[int]
    ready: list[int]
    offered_hz: list[float]
    changes: list[tuple[float, int]]

    def reversals(self, within_s: float) -> int:
        """How often pods were taken away or added so soon after the opposite."""
        pairs = zip(self.changes, self.changes[1:], strict=False)
        return sum(1 for (t, n), (u, k) in pairs if n * k < 0 and u - t < within_s)

    def overloaded_s(self, capacity_hz: float) -> float:
        """For how long more came than the pods can answer."""
        pairs = zip(self.offered_hz, self.ready, strict=True)
        return STEP_S * sum(1 for offered, ready in pairs if offered > ready * capacity_hz)


def simulate(
    specification: Mapping[str, Any], pod: Pod, load_hz: Callable[[float], float], duration_s: float, *, seed: int = 0
) -> Course:
    """A day, or an hour, of the autoscaler over pods that share the load evenly and are measured with noise."""
    rng = np.random.default_rng(seed)
    scaler = Autoscaler(specification=specification)
    born = [-START_S] * specification["minReplicas"]
    history: deque[dict[str, float]] = deque(maxlen=(WINDOW_S + LAG_S) // STEP_S)
    course = Course(pods=[], ready=[], offered_hz=[], changes=scaler.changes)
    for now_s in np.arange(0, duration_s, STEP_S):
        ready = sum(1 for t in born if now_s - t >= START_S)
        offered = float(rng.poisson(load_hz(now_s) * STEP_S)) / STEP_S
        figures = pod.figures(offered / ready)
        history.append({name: value * float(rng.lognormal(0, 0.1)) for name, value in figures.items()})
        seen = list(history)[: WINDOW_S // STEP_S]
        means = {name: float(np.mean([h[name] for h in seen])) for name in figures}
        wanted = scaler.decide(float(now_s), len(born), ready, means)
        # The youngest go first, as in a ReplicaSet.
        born = [*born, *[float(now_s)] * (wanted - len(born))][:wanted]
        course.pods.append(wanted)
        course.ready.append(min(ready, wanted))
        course.offered_hz.append(offered)
    return course


def quantity(text: str) -> float:
    """A Kubernetes quantity without or with `m`."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
