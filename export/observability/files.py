"""Every file that is made of the specs for watching servers, by its path below `deploy`."""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from rfserve.export.errors import ExportError
from rfserve.export.observability import budget_rules, health_rules
from rfserve.export.observability.collector import collector
from rfserve.export.observability.dashboard import dashboard
from rfserve.export.observability.rule import JOB, NAMESPACE, Group
from rfserve.export.observability.timing import Timing
from rfserve.export.spec import DEVICES
from rfserve.export.spec.device import REFERENCES

HEAD = "# Written by `rfserve-export observability --write deploy`; change the specs or the generator instead.\n"
TRITON_PORT_NAME = "metrics"
TRITON_LABELS = {"app.kubernetes.io/name": "rfserve", "app.kubernetes.io/component": "triton"}
LOCAL_TARGET = "127.0.0.1:8002"


def rule_groups(timing: Timing) -> tuple[Group, ...]:
    """The rules of every device, in the order in which they need each other."""
    return (
        *budget_rules.burn_rates(timing),
        health_rules.records(timing),
        budget_rules.alerts(timing),
        health_rules.alerts(timing),
    )


def files(timing: Timing, targets: Sequence[str] = (LOCAL_TARGET,)) -> dict[PurePosixPath, str]:
    """The text of each file. `targets` are what the Prometheus of one host scrapes."""
    home, kubernetes = PurePosixPath("observability"), PurePosixPath("observability/kubernetes")
    groups = [g.document() for g in rule_groups(timing)]
    found = {
        home / "prometheus" / "rules.yaml": _yaml({"groups": groups}),
        home / "prometheus" / "prometheus.yaml": _yaml(_prometheus(timing, targets)),
        home / "grafana" / "dashboard.json": json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n",
        kubernetes / "base" / "rules.yaml": _yaml(_rule_object("rfserve", groups)),
        kubernetes / "base" / "pod-monitor.yaml": _yaml(_pod_monitor(timing)),
        PurePosixPath("server/latency_bounds.py"): _bounds(),
    }
    for device in DEVICES:
        budgets = [budget_rules.budgets(device).document()]
        found[home / "prometheus" / f"budgets-{device}.yaml"] = _yaml({"groups": budgets})
        found[kubernetes / device / "budgets.yaml"] = _yaml(_rule_object("rfserve-budgets", budgets))
        found[home / "opentelemetry" / f"collector-{device}.yaml"] = _yaml(collector(device))
    return found


def _prometheus(timing: Timing, targets: Sequence[str]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": timing.scrape, "evaluation_interval": timing.scrape},
        # Another device: its budgets instead, and only one device for each Prometheus.
        "rule_files": ["rules.yaml", f"budgets-{REFERENCES['cpu']}.yaml"],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
    }


def _pod_monitor(timing: Timing) -> dict[str, Any]:
    """Pods, not a Service: one that is not ready is what has to be seen."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "triton"},
        "spec": {
            # It stands where Prometheus is, and would select pods there alone.
            "namespaceSelector": {"matchNames": [NAMESPACE]},
            "selector": {"matchLabels": TRITON_LABELS},
            "podMetricsEndpoints": [
                {
                    "port": TRITON_PORT_NAME,
                    "interval": timing.scrape,
                    "relabelings": [
                        # One that still copies its models has no port, and one that has ended none any more.
                        {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"},
                        {"targetLabel": "job", "replacement": JOB},
                        # An address may be another pod's tomorrow.
                        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"},
                    ],
                }
            ],
        },
    }


def _rule_object(name: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name},
        "spec": {"groups": groups},
    }


def _bounds() -> str:
    lines = "".join(f"    {bound:g},\n" for bound in budget_rules.bounds_s())
    return (
        '"""Upper bounds of the latency histogram, in seconds: a ladder, and every budget of the specs.\n\n'
        'Written by `rfserve-export observability --write deploy`.\n"""\n\n'
        f"BOUNDS_S = (\n{lines})\n"
    )


def _yaml(document: dict[str, Any]) -> str:
    try:
        # Only who writes these files needs it.
        import yaml  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ExportError("writing YAML needs PyYAML, which is not installed: pip install pyyaml") from error

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Blocks are indented, nothing is an alias, and what has lines is written in lines."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:  # noqa: ARG002
            return super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    Dumper.add_representer(
        str,
        lambda dumper, text: dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        ),
    )
    return HEAD + str(yaml.dump(document, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True))
