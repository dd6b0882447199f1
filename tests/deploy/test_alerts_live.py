"""A real Prometheus that watches a real server, with every time of the rules divided by 60."""

import re

import alerts
import pytest
from prometheus_tools import MISSING, Prometheus, tool

from rfserve.export.observability.dashboard import dashboard
from rfserve.export.observability.files import rule_groups
from rfserve.export.observability.rule import Alert
from rfserve.export.observability.timing import Timing

# Of a flag that only NVIDIA's image needs.
ELSEWHERE = {"nv_inference_request_summary_us"}


def metric_names() -> set[str]:
    """Every metric of a server that a rule or a panel reads."""
    texts = [t["expr"] for p in dashboard()["panels"] for t in p["targets"]]
    texts += [rule.expression for group in rule_groups(Timing()) for rule in group.rules]
    return {name for text in texts for name in re.findall(r"(?<![\w:])(?:nv|rfserve)_\w+(?![\w:])", text)}


def test_every_alert_has_its_experiment():
    named = {r.name for g in rule_groups(Timing()) for r in g.rules if isinstance(r, Alert)}
    assert named == {name for experiment in alerts.EXPERIMENTS.values() for name in experiment.fires}


@pytest.mark.server
@pytest.mark.alone
def test_prometheus_fires_the_alert_of_a_dead_model_and_no_other(small_model):
    if tool("prometheus") is None:
        pytest.skip(f"prometheus {MISSING}")
    asked: list[str] = []

    def look(seen: Prometheus) -> None:
        asked.extend(sorted(metric_names() - ELSEWHERE))
        assert [name for name in asked if not seen.query(name)] == []

    experiment = alerts.EXPERIMENTS["dead_model"]
    result = alerts.run(experiment, small_model, look)
    assert not alerts.verdict(experiment, result), result
    assert "RfserveModelDead" in result.after_s
    assert len(asked) > 15
