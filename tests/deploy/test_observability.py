"""What is made of the specs for watching servers: up to date, whole, and about metrics and pods that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_tools import MISSING, ROOT, tool

from rfserve.export.cli import main
from rfserve.export.errors import ExportError
from rfserve.export.observability.dashboard import dashboard
from rfserve.export.observability.files import files, rule_groups
from rfserve.export.observability.health_rules import START_S
from rfserve.export.observability.rule import Alert
from rfserve.export.observability.timing import Timing
from rfserve.export.spec import DEVICES, MODELS

DEPLOY = ROOT / "deploy"
HOME = DEPLOY / "observability"
COMMAND = "run `rfserve-export observability --write deploy`"


def alerts() -> list[Alert]:
    return [r for g in rule_groups(Timing()) for r in g.rules if isinstance(r, Alert)]


def expressions() -> list[str]:
    panels = dashboard()
    found = [t["expr"] for p in panels["panels"] for t in p["targets"]]
    return [*found, *(a["expr"] for a in panels["annotations"]["list"])]


def test_files_are_what_the_specs_give():
    made = files(Timing())
    stale = [str(path) for path, text in made.items() if (DEPLOY / path).read_text() != text]
    assert not stale, COMMAND
    written = {p for p in HOME.rglob("*") if p.is_file()} - {DEPLOY / path for path in made}
    assert {p.name for p in written} == {"README.md", "RUNBOOK.md", "kustomization.yaml"}


def test_command_writes_a_rehearsal(tmp_path: Path, capsys):
    assert main(["observability", "--write", str(tmp_path), "--hasten", "60", "--target", "127.0.0.1:9"]) == 0
    rules = (tmp_path / "observability" / "prometheus" / "rules.yaml").read_text()
    assert "[5s]" in rules
    assert "[1h]" not in rules
    config = yaml.safe_load((tmp_path / "observability" / "prometheus" / "prometheus.yaml").read_text())
    assert config["global"]["scrape_interval"] == "1s"
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:9"]}]
    assert main(["observability", "--write", str(tmp_path), "--hasten", "0.5"]) == 1
    assert "expected 1 (production) to 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "hasten", "text"),
    [(300, 1, "5m"), (5400, 1, "90m"), (259200, 1, "3d"), (259200, 60, "72m"), (15, 60, "1s")],
)
def test_times_are_written_in_the_largest_unit(seconds, hasten, text):
    assert Timing(hasten=hasten).text(seconds) == text
    with pytest.raises(ExportError, match="hasten"):
        Timing(hasten=0)


def test_every_alert_has_its_section_in_the_runbook():
    text = (HOME / "RUNBOOK.md").read_text()
    sections = re.findall(r"^## (\w+)$", text, flags=re.MULTILINE)
    assert sorted(sections) == sorted({a.name for a in alerts()})
    for alert in alerts():
        path, _, anchor = alert.document()["annotations"]["runbook_url"].partition("#")
        assert (ROOT / path).samefile(HOME / "RUNBOOK.md")
        # As GitHub and others make an anchor of a heading.
        assert anchor in {section.lower() for section in sections}


def test_every_alert_says_what_it_needs():
    for alert in alerts():
        document = alert.document()
        assert document["labels"]["severity"] in {"page", "ticket"}
        assert document["annotations"]["works_with"]
        # What only our own servers have must not be all that an alert for any Triton reads.
        ours_only = "rfserve_" in alert.expression and "nv_" not in alert.expression
        recorded = re.search(r"rfserve_(failed|requests|served|memory|p99)", alert.expression)
        if document["annotations"]["works_with"] == "any Triton":
            assert not ours_only or recorded, alert.name


def test_dashboard_draws_every_model_and_budget():
    text = json.dumps(dashboard())
    assert all(name in text for name in MODELS)
    panels = dashboard()["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
    assert len(places) == len(panels)
    for slo in ("p50", "p95", "p99"):
        assert f'rfserve:latency_budget:seconds{{slo=\\"{slo}\\"' in text


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path):
    promtool = tool("promtool")
    if promtool is None:
        pytest.skip(f"promtool {MISSING}")
    plain = [e.replace("$__rate_interval", "5m").replace("$model", "locate") for e in expressions()]
    assert not [e for e in plain if "$" in e]
    rules = [{"record": f"panel:{i}", "expr": e} for i, e in enumerate(plain)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("device", DEVICES)
def test_collector_uses_what_it_declares(device):
    document = yaml.safe_load((HOME / "opentelemetry" / f"collector-{device}.yaml").read_text())
    for kind in ("receivers", "processors", "exporters"):
        used = {name for p in document["service"]["pipelines"].values() for name in p[kind]}
        assert used == set(document[kind])
    assert set(document["service"]["extensions"]) == set(document["extensions"])
    policies = document["processors"]["tail_sampling"]["policies"]
    assert {p["name"] for p in policies} == {"failed", "rest", *(f"slow-{name}" for name in MODELS)}


@pytest.mark.parametrize("device", DEVICES)
def test_collector_holds_each_model_of_an_ensemble_to_its_own_budget(device):
    """A trace's whole length, which the policy `latency` looks at, is that of the ensemble."""
    budgets = {name: spec.budgets[device].p99_ms for name, spec in MODELS.items()}
    document = yaml.safe_load((HOME / "opentelemetry" / f"collector-{device}.yaml").read_text())
    conditions = {
        policy["name"]: policy["ottl_condition"]["span"]
        for policy in document["processors"]["tail_sampling"]["policies"]
        if policy["type"] == "ottl_condition"
    }
    for name, p99_ms in budgets.items():
        over = f"end_time_unix_nano - start_time_unix_nano > {p99_ms * 1e6:.0f}"
        assert conditions[f"slow-{name}"] == [f'attributes["triton.model_name"] == "{name}" and {over}']
    assert len(conditions) == len(budgets)


@pytest.fixture(scope="module")
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed, so the manifests cannot be rendered")
    return found


def render(kubectl: str, folder: Path) -> dict[tuple[str, str], dict]:
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize("device", DEVICES)
def test_manifests_render_and_hold_the_same_rules(kubectl, device):
    found = render(kubectl, HOME / "kubernetes" / device)
    for name, file in (("rfserve", "rules"), ("rfserve-budgets", f"budgets-{device}")):
        plain = yaml.safe_load((HOME / "prometheus" / f"{file}.yaml").read_text())
        assert found["PrometheusRule", name]["spec"] == plain
    panels = json.loads(found["ConfigMap", "rfserve-dashboard"]["data"]["dashboard.json"])
    assert panels == dashboard()


def test_pod_monitor_selects_the_pods_that_serve(kubectl):
    watching = render(kubectl, HOME / "kubernetes" / "cpu-2core")
    monitor = watching["PodMonitor", "triton"]["spec"]
    serving = render(kubectl, DEPLOY / "k8s" / "overlays" / "cpu")
    deployment = serving["Deployment", "triton"]
    served = deployment["spec"]["template"]
    assert monitor["namespaceSelector"] == {"matchNames": [deployment["metadata"]["namespace"]]}
    # All of it stands where the NetworkPolicy lets Prometheus in from.
    (peer,) = serving["NetworkPolicy", "triton"]["spec"]["ingress"][1]["from"]
    there = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert {d["metadata"].get("namespace") for d in watching.values()} == {there}
    labels = served["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    (container,) = [c for c in served["spec"]["containers"] if c["name"] == "triton"]
    endpoint = monitor["podMetricsEndpoints"][0]
    assert endpoint["port"] in {p["name"] for p in container["ports"]}
    assert {"targetLabel": "job", "replacement": "rfserve"} in endpoint["relabelings"]
    # Pods that copy their models, or have ended, would count as down.
    kept = {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"}
    assert kept in endpoint["relabelings"]


def test_server_counts_as_down_no_sooner_than_its_startup_probe_gives_up(kubectl):
    served = render(kubectl, DEPLOY / "k8s" / "overlays" / "cpu")["Deployment", "triton"]["spec"]["template"]["spec"]
    probe = served["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= START_S


def test_one_host_has_the_same_rules_and_dashboard(tmp_path: Path):
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]
    for service, place in (("prometheus", "/etc/prometheus/"), ("grafana", "/etc/grafana/dashboards/")):
        for source, target, *_ in (volume.split(":") for volume in compose[service]["volumes"]):
            if target.startswith(place):
                # As they lie in the container.
                shutil.copy(DEPLOY / "docker" / source, tmp_path / target.removeprefix(place))
    assert json.loads((tmp_path / "dashboard.json").read_text()) == dashboard()
    config = yaml.safe_load((tmp_path / "prometheus.yaml").read_text())
    assert [c["job_name"] for c in config["scrape_configs"]] == ["rfserve"]
    promtool = tool("promtool")
    if promtool is None:
        pytest.skip(f"promtool {MISSING}")
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
