"""Both overlays, as kubectl renders them: strict schemas, and what schemas let through."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfserve.server import binary

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu", "gpu")
# Beside this Python, whether or not its environment is activated.
VALIDATE = Path(sys.executable).with_name("kubernetes-validate")
Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request, tmp_path_factory) -> tuple[str, Path]:
    """(overlay, file that `kubectl kustomize` rendered)."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so the overlays cannot be rendered")
    folder = ROOT / "deploy" / "k8s" / "overlays" / request.param
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = tmp_path_factory.mktemp(request.param) / "all.yaml"
    file.write_text(done.stdout)
    return request.param, file


@pytest.fixture
def manifests(rendered: tuple[str, Path]) -> Manifests:
    found: Manifests = {}
    for item in yaml.safe_load_all(rendered[1].read_text()):
        found[item["kind"]] = item
    return found


def problems(m: Manifests) -> Iterator[str]:
    """What a strict schema lets through, and an API server or a kubelet does not."""
    deployment = m["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    labels = deployment["template"]["metadata"]["labels"]
    for what, selector in (
        ("Deployment", deployment["selector"]["matchLabels"]),
        ("Service", m["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", m["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", m["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
    ):
        if not selector or selector.items() - labels.items():
            yield f"{what} does not select the pod"
    ports = [p["name"] for p in container["ports"]]
    if len(set(ports)) != len(ports) or any(len(p) > 15 for p in ports):
        yield "container ports are not distinct, or too long"
    targets = [p["targetPort"] for p in m["Service"]["spec"]["ports"]]
    targets += [container[f"{k}Probe"]["httpGet"]["port"] for k in ("startup", "readiness", "liveness")]
    targets += [p["port"] for rule in m["NetworkPolicy"]["spec"]["ingress"] for p in rule["ports"]]
    if set(targets) - set(ports):
        yield f"ports {sorted(set(targets) - set(ports))} are not the container's"
    volumes = {v["name"] for v in pod["volumes"]}
    if {v["name"] for v in container["volumeMounts"]} - volumes:
        yield "a mount names no volume"
    hook = container["lifecycle"]["preStop"]
    exit_s = next(int(a.split("=")[1]) for a in container["args"] if a.startswith("--exit-timeout-secs"))
    if len(hook) != 1 or hook["sleep"]["seconds"] + exit_s >= pod["terminationGracePeriodSeconds"]:
        yield "preStop and exit time-out do not fit into the grace period"
    resources = container["resources"]
    if resources["requests"]["memory"] != resources["limits"]["memory"] or "cpu" in resources["limits"]:
        yield "memory request is not its limit, or the CPU is throttled"
    gpu = "nvidia.com/gpu"
    if resources["requests"].get(gpu) != resources["limits"].get(gpu):
        yield "GPU request is not its limit"
    if len({"minAvailable", "maxUnavailable"} & m["PodDisruptionBudget"]["spec"].keys()) != 1:
        yield "the disruption budget needs exactly one bound"
    security, restricted = pod["securityContext"], container["securityContext"]
    if not (
        security["runAsNonRoot"]
        and security["seccompProfile"]["type"] == "RuntimeDefault"
        and restricted["allowPrivilegeEscalation"] is False
        and restricted["capabilities"]["drop"] == ["ALL"]
    ):
        yield "the pod is not what PodSecurity `restricted` asks for"
    if ":" not in container["image"] or container["image"].endswith(":latest"):
        yield "the image is not pinned"


def test_overlay_renders_what_its_target_needs(rendered, manifests):
    container = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert f"--model-config-name={rendered[0]}" in container["args"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (rendered[0] == "gpu")
    assert list(problems(manifests)) == []


def test_overlay_passes_a_strict_schema(rendered):
    done = subprocess.run(
        [str(VALIDATE), "-k", "1.32", "--strict", str(rendered[1])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # An unknown kind only warns.
    assert "find schema" not in done.stdout + done.stderr


def container_of(m: Manifests) -> dict[str, Any]:
    return m["Deployment"]["spec"]["template"]["spec"]["containers"][0]


MUTANTS: dict[str, Callable[[Manifests], object]] = {
    "selector": lambda m: m["Service"]["spec"]["selector"].update(x="y"),
    "gpu": lambda m: container_of(m)["resources"]["limits"].update({"nvidia.com/gpu": "3"}),
    "mount": lambda m: container_of(m)["volumeMounts"].append({"name": "nothing", "mountPath": "/x"}),
    "duplicate port": lambda m: container_of(m)["ports"].append({"name": "grpc", "containerPort": 9}),
    "long port": lambda m: container_of(m)["ports"].append({"name": "a" * 16, "containerPort": 9}),
    "grace": lambda m: m["Deployment"]["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=15),
    "two handlers": lambda m: container_of(m)["lifecycle"]["preStop"].update(exec={"command": ["true"]}),
    "both bounds": lambda m: m["PodDisruptionBudget"]["spec"].update(minAvailable=1),
    "probe port": lambda m: container_of(m)["livenessProbe"]["httpGet"].update(port="htp"),
    "root": lambda m: m["Deployment"]["spec"]["template"]["spec"]["securityContext"].update(runAsNonRoot=False),
    "image": lambda m: container_of(m).update(image="nvcr.io/nvidia/tritonserver:latest"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_check_finds_the_seeded_mistake(manifests, mutant):
    changed = copy.deepcopy(manifests)
    MUTANTS[mutant](changed)
    assert list(problems(changed)), mutant


def test_every_flag_is_one_that_tritonserver_knows(manifests, tmp_path: Path):
    found = binary.find(tmp_path / "backends")
    known = subprocess.run(
        [str(found.path), "--help"], env=found.environment, capture_output=True, text=True, check=False
    )
    for argument in container_of(manifests)["args"]:
        flag = argument.split("=")[0].removeprefix("--")
        assert flag in known.stdout + known.stderr, argument
