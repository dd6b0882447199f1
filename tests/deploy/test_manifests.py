"""Every target, as kubectl renders it: strict schemas of every release that the README names, images, flags."""

import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from rendering import FOLDER, ROOT, TARGETS, command, containers

from rfserve.export.canary_requests import MOST_ROWS
from rfserve.export.spec import GRAPHS
from rfserve.export.spec.model import SPEC_CORES
from rfserve.export.spec.queueing import largest_formed_batch
from rfserve.server import binary

RELEASES = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")


@pytest.mark.parametrize("target", TARGETS)
def test_target_passes_the_strict_schemas_of_every_release(manifests, target):
    for item in manifests(target):
        for release in RELEASES:
            try:
                kubernetes_validate.validate(item, release, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                # Custom resources alone have none.
                assert "." in item["apiVersion"].split("/")[0], item["kind"]
                of_kubernetes = item["apiVersion"].split("/")[0].endswith(".k8s.io")
                assert not of_kubernetes or item["kind"] in {"GRPCRoute", "BackendTLSPolicy"}


def test_readme_names_the_releases_that_are_checked():
    text = (FOLDER.parent / "README.md").read_text()
    assert f"Kubernetes {RELEASES[0]} to {RELEASES[-1]}" in text


@pytest.mark.parametrize("file", ["README.md", "observability/README.md"])
def test_readme_applies_what_is_there(file):
    deploy = FOLDER.parent
    named = re.findall(r"-k deploy/(\S+)", (deploy / file).read_text())
    assert named
    for folder in named:
        assert (deploy / folder / "kustomization.yaml").is_file(), folder


def test_schemas_are_strict(manifests):
    for spoil in (lambda d: d["spec"].update(replica=2), lambda d: d["spec"].update(minReadySeconds="ten")):
        changed = manifests("overlays/cpu").one("Deployment")
        spoil(changed)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(changed, RELEASES[0], strict=True)


def test_images_are_pinned_in_one_place(manifests):
    pinned = yaml.safe_load((FOLDER / "components" / "images" / "kustomization.yaml").read_text())["images"]
    known = {f"{i['newName']}:{i['newTag']}" for i in pinned}
    for target in TARGETS:
        for _, pod, _ in manifests(target).pods():
            assert {c["image"] for c in containers(pod)} <= known
    elsewhere = [f for f in FOLDER.rglob("*.yaml") if f.parent.name != "images" and "newTag" in f.read_text()]
    assert elsewhere == []


@pytest.mark.parametrize("target", ["overlays/cpu", "overlays/gpu"])
def test_overlay_serves_what_its_target_is_for(manifests, target):
    found = manifests(target)
    container = found.server()
    assert next(iter(m["data"]["TARGET"] for m in found.of("ConfigMap") if "TARGET" in m["data"])) == target[-3:]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (target[-3:] == "gpu")


@pytest.mark.parametrize("target", ["overlays/canary", "overlays/canary-gpu", "tls-canary"])
def test_canary_is_behind_the_service_of_the_gateway_and_takes_nothing_along(manifests, target):
    """What a route needs, and what the other overlay has, outlives it."""
    canary, beside = manifests(target), manifests("tls" if target == "tls-canary" else "gateway")
    there = {(o["kind"], o["metadata"]["name"]) for o in beside}
    assert not there & {(o["kind"], o["metadata"]["name"]) for o in canary}
    assert not list(canary.of("GRPCRoute", "Service", "NetworkPolicy", "Certificate"))
    labels = canary.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert beside.one("Service", "triton-canary")["spec"]["selector"].items() <= labels.items()
    assert not beside.one("Service", "triton")["spec"]["selector"].items() <= labels.items()
    assert beside.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert ("--grpc-use-ssl=true" in canary.server()["args"]) == ("--grpc-use-ssl=true" in beside.server()["args"])


def test_readme_gives_calls_to_the_canary_and_takes_them_away(manifests):
    text = (FOLDER.parent / "README.md").read_text()
    changes = [json.loads(found) for found in re.findall(r"patch grpcroute triton --type=json -p '(.*)'", text)]
    values = []
    for (change,) in changes:
        backend = manifests("gateway").one("GRPCRoute")
        *place, field = change["path"].strip("/").split("/")
        for step in place:
            backend = backend[int(step) if step.isdigit() else step]
        assert (change["op"], backend["name"], field) == ("replace", "triton-canary", "weight")
        values.append(change["value"])
    assert values[0] > 0
    assert values[1:] == [0]


@pytest.mark.parametrize("place", ["", "-s3"])
def test_rollback_is_the_release_but_for_where_it_goes(manifests, place):
    there, back = (manifests(f"jobs/{name}{place}") for name in ("release", "rollback"))
    arguments = back.one("Job")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[1] == "--rollback"
    arguments[1] = "$(VERSION)"
    assert back == there


@pytest.mark.parametrize(("target", "job"), [("tls-release", "release"), ("tls-load-test", "load-master")])
def test_job_knows_the_authority_of_the_servers_and_not_their_key(manifests, target, job):
    pod = manifests(target).one("Job", job)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    place = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "authority")
    assert f"--root-certificates={place}/ca.crt" in container["args"]
    # Pods are called by address, and the master asks for a name of the certificate.
    assert "triton" in manifests("tls").one("Certificate")["spec"]["dnsNames"]
    assert ("--server-name=triton" in container["args"]) == (job == "release")
    for _, every, _ in manifests(target).pods():
        (secret,) = (v["secret"] for v in every["volumes"] if v["name"] == "authority")
        assert secret == {
            "secretName": manifests("tls").one("Certificate")["spec"]["secretName"],
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        }


def test_gateway_encrypts_what_it_sends_to_every_service_of_its_route(manifests):
    found = manifests("tls")
    policy = found.one("BackendTLSPolicy")["spec"]
    backends = {b["name"] for rule in found.one("GRPCRoute")["spec"]["rules"] for b in rule["backendRefs"]}
    assert {t["name"] for t in policy["targetRefs"]} == backends
    assert policy["validation"]["hostname"] in found.one("Certificate")["spec"]["dnsNames"]
    for name in backends:
        grpc = next(p for p in found.one("Service", name)["spec"]["ports"] if p["name"] == "grpc")
        assert grpc["appProtocol"] == "https"


def test_every_flag_is_one_that_tritonserver_knows(manifests, tmp_path: Path):
    found = binary.find(tmp_path / "backends")
    known = subprocess.run(
        [str(found.path), "--help"], env=found.environment, capture_output=True, text=True, check=False
    )
    words = set(re.findall(r"--([a-z-]+)", known.stdout + known.stderr))
    for target in ("overlays/cpu", "tls", "kserve"):
        for argument in command(manifests(target).server(), {})[1:]:
            assert argument.split("=")[0].removeprefix("--") in words, argument


def test_runtime_of_kserve_is_the_container_of_the_deployment(manifests):
    ours, theirs = manifests("overlays/cpu").server(), manifests("kserve").server()

    def elsewhere(text: str) -> str:
        return text.replace("/mnt/models", "/models").replace("=cpu", "=$(TARGET)")

    assert [elsewhere(a) for a in theirs["args"]] == ours["args"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "securityContext", "image"):
        assert theirs[name] == ours[name]


def test_no_secret_is_in_the_repository(tracked):
    for name in [f for f in tracked if f.startswith("deploy/")]:
        text = (ROOT / name).read_text(errors="ignore")
        assert not re.search(r"^kind: Secret$|secretGenerator|BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}", text, re.M), (
            name
        )


def test_files_are_small():
    for file in FOLDER.rglob("*.yaml"):
        limit = 150 if file.name == "deployment.yaml" else 90
        assert len(file.read_text().splitlines()) <= limit, file


def test_comment_has_the_arithmetic_of_the_specs():
    total_ms = sum(
        spec.placements["cpu"].instances * min(largest_formed_batch(spec, "cpu"), MOST_ROWS) * spec.row_costs_ms["cpu"]
        for spec in GRAPHS.values()
    )
    period_s = 10
    text = (FOLDER / "base" / "deployment.yaml").read_text()
    assert f"take {total_ms:.0f} ms of CPU" in text
    assert f"{total_ms / 1000 / SPEC_CORES / period_s:.1%}".replace("%", " %") in text
    assert re.search(rf"probe.py, live\]}}\n\s+periodSeconds: {period_s}\n", text)


# Of `rfserve-server release localization_net` (large, FP32) against a server of every model, in MiB, without limits.
RELEASE_PEAK_MIB = {"triton": 6083, "kserve-container": 6083, "release": 4124}
GIB_MIB = 1024


# A laptop's cluster says in its comment that it has none.
@pytest.mark.parametrize("target", [t for t in TARGETS if t not in {"overlays/dev", "keda"}])
def test_memory_has_room_for_a_release_of_the_largest_network(manifests, target):
    for workload in manifests(target).of("Deployment", "Job", "ServingRuntime"):
        for container in containers(workload["spec"].get("template", workload)["spec"]):
            if container["name"] in RELEASE_PEAK_MIB:
                limit = container["resources"]["limits"]["memory"]
                room_mib = 0.8 * GIB_MIB * int(limit.removesuffix("Gi"))
                assert room_mib > RELEASE_PEAK_MIB[container["name"]], (target, limit)
