"""The rules hold for every target, and each finds the mistake that it is for: seeded ones, and fields taken away."""

from collections.abc import Callable, Iterator
from typing import Any

import network_rules
import object_rules
import pod_rules
import pytest
import route_rules
import server_rules
from rendering import TARGETS, Manifests

FILES = (pod_rules, server_rules, object_rules, network_rules, route_rules)
RULES = {rule.__name__: rule for file in FILES for rule in file.RULES}
KEY = "nvidia.com/gpu"


def problems(m: Manifests) -> Iterator[str]:
    for rule in RULES.values():
        yield from rule(m)


@pytest.mark.parametrize("target", TARGETS)
def test_target_keeps_every_rule(manifests, target):
    assert list(problems(manifests(target))) == []


def pod(m: Manifests) -> Any:
    return m.one("Deployment")["spec"]["template"]["spec"]


def server(m: Manifests) -> Any:
    return m.server()


def policy(m: Manifests) -> Any:
    return m.one("NetworkPolicy", "triton")["spec"]


def scaler(m: Manifests) -> Any:
    return m.one("HorizontalPodAutoscaler")["spec"]


def match(m: Manifests) -> Any:
    return m.one("GRPCRoute")["spec"]["rules"][0]


CPU, GPU, GATEWAY, TLS, KEDA = "overlays/cpu", "overlays/gpu", "gateway", "tls", "keda"
RELEASE, LOAD, KSERVE = "jobs/release", "jobs/load-test", "kserve"
# What a strict schema lets through, each with the rule that must find it.
MISTAKES: dict[str, tuple[str, str, Callable[[Manifests], object]]] = {
    "selector of the deployment": (
        CPU,
        "selectors",
        lambda m: m.one("Deployment")["spec"]["selector"]["matchLabels"].update(x="y"),
    ),
    "selector of the service": (CPU, "selectors", lambda m: m.one("Service")["spec"]["selector"].update(x="y")),
    "selector of the budget": (
        CPU,
        "selectors",
        lambda m: m.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(x="y"),
    ),
    "selector of the policy": (CPU, "selectors", lambda m: policy(m)["podSelector"]["matchLabels"].update(x="y")),
    "selector of a spread": (
        CPU,
        "selectors",
        lambda m: pod(m)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(x="y"),
    ),
    "GPU limit": (GPU, "resources", lambda m: server(m)["resources"]["limits"].update({KEY: "3"})),
    "memory limit": (CPU, "resources", lambda m: server(m)["resources"]["limits"].update(memory="7Gi")),
    "CPU limit": (CPU, "resources", lambda m: server(m)["resources"]["limits"].update(cpu="2")),
    "quantity": (CPU, "resources", lambda m: server(m)["resources"]["requests"].update(cpu="2 cores")),
    "volume that is missing": (
        CPU,
        "volumes",
        lambda m: server(m)["volumeMounts"].append({"name": "nothing", "mountPath": "/x"}),
    ),
    "two mounts at one path": (
        CPU,
        "volumes",
        lambda m: server(m)["volumeMounts"].append({"name": "tmp", "mountPath": "/dev/shm"}),
    ),
    "volume nobody mounts": (
        CPU,
        "volumes",
        lambda m: pod(m)["volumes"].append({"name": "idle", "emptyDir": {"sizeLimit": "1Gi"}}),
    ),
    "folder of the node": (
        CPU,
        "volumes",
        lambda m: pod(m)["volumes"].append({"name": "tmp", "hostPath": {"path": "/"}}),
    ),
    "endless disk": (CPU, "volumes", lambda m: pod(m)["volumes"].append({"name": "tmp", "emptyDir": {}})),
    "map that is missing": (
        CPU,
        "volumes",
        lambda m: m.remove(next(o for o in m.of("ConfigMap") if "probe.py" in o["data"])),
    ),
    "variable that is not set": (CPU, "variables", lambda m: server(m)["args"].append("--x=$(NOBODY)")),
    "port name twice": (CPU, "ports", lambda m: server(m)["ports"].append({"name": "grpc", "containerPort": 9})),
    "port name too long": (CPU, "ports", lambda m: server(m)["ports"].append({"name": "a" * 16, "containerPort": 9})),
    "probe of no port": (
        CPU,
        "ports",
        lambda m: server(m).update(livenessProbe={"httpGet": {"path": "/", "port": "htp"}}),
    ),
    "target of no port": (CPU, "services", lambda m: m.one("Service")["spec"]["ports"][0].update(targetPort="gprc")),
    "target name too long": (
        CPU,
        "services",
        lambda m: m.one("Service")["spec"]["ports"][0].update(targetPort="a" * 16),
    ),
    "one address for all pods": (CPU, "services", lambda m: m.one("Service")["spec"].pop("clusterIP")),
    "preStop beyond the grace": (
        CPU,
        "ending",
        lambda m: server(m)["lifecycle"]["preStop"]["sleep"].update(seconds=120),
    ),
    "preStop before clients are gone": (
        CPU,
        "ending",
        lambda m: server(m)["lifecycle"]["preStop"]["sleep"].update(seconds=15),
    ),
    "connections for ever": (
        CPU,
        "ending",
        lambda m: server(m).update(args=[a for a in server(m)["args"] if "connection-age=" not in a]),
    ),
    "two preStop handlers": (
        CPU,
        "ending",
        lambda m: server(m)["lifecycle"]["preStop"].update(exec={"command": ["true"]}),
    ),
    "exit time-out beyond the grace": (
        CPU,
        "ending",
        lambda m: (
            server(m)["args"].append("--exit-timeout-secs=150") or server(m)["args"].remove("--exit-timeout-secs=45")
        ),
    ),
    "HPA least above most": (CPU, "scaling", lambda m: scaler(m).update(minReplicas=11)),
    "number beside the HPA": (CPU, "scaling", lambda m: m.one("Deployment")["spec"].update(replicas=2)),
    "HPA of nobody": (CPU, "scaling", lambda m: scaler(m)["scaleTargetRef"].update(name="other")),
    "HPA in a hurry": (
        CPU,
        "scaling",
        lambda m: scaler(m)["behavior"]["scaleDown"].update(stabilizationWindowSeconds=0),
    ),
    "KEDA least above most": (KEDA, "scaling", lambda m: m.one("ScaledObject")["spec"].update(minReplicaCount=99)),
    "KEDA without a fallback": (KEDA, "scaling", lambda m: m.one("ScaledObject")["spec"].pop("fallback")),
    "two bounds of the budget": (
        CPU,
        "disruption",
        lambda m: m.one("PodDisruptionBudget")["spec"].update(minAvailable=1),
    ),
    "removed apiVersion": (CPU, "kinds", lambda m: m.one("PodDisruptionBudget").update(apiVersion="policy/v1beta1")),
    "old apiVersion of the HPA": (
        CPU,
        "kinds",
        lambda m: m.one("HorizontalPodAutoscaler").update(apiVersion="autoscaling/v2beta2"),
    ),
    "a secret": (
        CPU,
        "kinds",
        lambda m: m.append({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x", "namespace": "rfserve"}}),
    ),
    "elsewhere": (CPU, "kinds", lambda m: m.one("Service")["metadata"].pop("namespace")),
    "ipBlock beside a selector": (
        CPU,
        "network",
        lambda m: policy(m)["ingress"][0]["from"][0].update(ipBlock={"cidr": "10.0.0.0/8"}),
    ),
    "policy of no port": (CPU, "network", lambda m: policy(m)["ingress"][0]["ports"][0].update(port="gprc")),
    "everybody is a client": (CPU, "network", lambda m: policy(m)["ingress"][0]["from"].append({"podSelector": {}})),
    "every port for Prometheus": (CPU, "network", lambda m: policy(m)["ingress"][1].pop("ports")),
    "labels in the policy": (
        CPU,
        "network",
        lambda m: policy(m)["ingress"][2]["from"][0]["podSelector"]["matchLabels"].update(x="y"),
    ),
    "Prometheus of every namespace": (
        CPU,
        "network",
        lambda m: policy(m)["ingress"][1]["from"][0].update(namespaceSelector={}),
    ),
    "Prometheus of this namespace": (
        CPU,
        "network",
        lambda m: policy(m)["ingress"][1]["from"][0].pop("namespaceSelector"),
    ),
    "no workers": (LOAD, "meeting_point", lambda m: m.one("NetworkPolicy")["spec"].update(ingress=[])),
    "everybody a worker": (LOAD, "meeting_point", lambda m: m.one("NetworkPolicy")["spec"]["ingress"][0].pop("from")),
    "a master for all": (LOAD, "meeting_point", lambda m: m.remove(m.one("NetworkPolicy"))),
    "verifier of KServe with privileges": (
        KSERVE,
        "privileges",
        lambda m: m.one("ClusterStorageContainer")["spec"]["container"].pop("securityContext"),
    ),
    "certificate that is not there": (
        TLS,
        "encryption",
        lambda m: server(m)["volumeMounts"].remove(next(v for v in server(m)["volumeMounts"] if "cert" in v["name"])),
    ),
    "in the clear from the gateway": (
        TLS,
        "encryption",
        lambda m: m.one("Service", "triton")["spec"]["ports"][0].update(appProtocol="kubernetes.io/h2c"),
    ),
    "no policy": (CPU, "network", lambda m: m.remove(m.one("NetworkPolicy", "triton"))),
    "no service or method": (GATEWAY, "routes", lambda m: match(m)["matches"][0].update(method={"type": "Exact"})),
    "a duration": (GATEWAY, "routes", lambda m: match(m).update(timeouts={"request": "1.5s"})),
    "a backend that is not there": (GATEWAY, "routes", lambda m: match(m)["backendRefs"][0].update(name="other")),
    "no weight": (GATEWAY, "shares", lambda m: [b.update(weight=0) for b in match(m)["backendRefs"]]),
    "a share for no canary": (GATEWAY, "shares", lambda m: match(m)["backendRefs"][1].update(weight=5)),
    "a canary without a service": (GATEWAY, "routes", lambda m: m.remove(m.one("Service", "triton-canary"))),
    "administration by the gateway": (
        GATEWAY,
        "administration",
        lambda m: match(m)["matches"][0]["method"].update(method="RepositoryModelLoad"),
    ),
    "latest image": (CPU, "images", lambda m: server(m).update(image="nvcr.io/nvidia/tritonserver:latest")),
    "image without a tag": (CPU, "images", lambda m: server(m).update(image="registry:5000/tritonserver")),
    "surge on GPUs": (
        GPU,
        "rollout",
        lambda m: m.one("Deployment")["spec"]["strategy"]["rollingUpdate"].update(maxSurge=1),
    ),
    "outage on CPUs": (
        CPU,
        "rollout",
        lambda m: m.one("Deployment")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
    ),
    "impatient rollout": (CPU, "rollout", lambda m: m.one("Deployment")["spec"].update(progressDeadlineSeconds=600)),
    "liveness in a second": (CPU, "probes", lambda m: server(m)["livenessProbe"].update(timeoutSeconds=1)),
    "liveness of the server": (
        CPU,
        "probes",
        lambda m: server(m).update(livenessProbe={"httpGet": {"path": "/v2/health/live", "port": 8000}}),
    ),
    "drain before a restart": (
        CPU,
        "probes",
        lambda m: server(m)["livenessProbe"].update(terminationGracePeriodSeconds=160),
    ),
    "startup in a minute": (CPU, "probes", lambda m: server(m)["startupProbe"].update(failureThreshold=12)),
    "models that can be changed": (
        CPU,
        "verified_models",
        lambda m: server(m)["volumeMounts"][0].update(readOnly=False),
    ),
    "unverified models": (
        CPU,
        "verified_models",
        lambda m: server(m)["args"].append("--model-repository=/source") or server(m)["args"].pop(0),
    ),
    "open administration": (
        CPU,
        "server",
        lambda m: server(m)["args"].remove(next(a for a in server(m)["args"] if "grpc-restricted" in a)),
    ),
    "open inference over HTTP": (
        CPU,
        "server",
        lambda m: server(m).update(args=[a.replace(",inference", "") for a in server(m)["args"]]),
    ),
    "a key in the clear": (
        CPU,
        "server",
        lambda m: server(m)["env"].insert(0, {"name": "ADMIN_KEY", "value": "secret"}) or server(m)["env"].pop(1),
    ),
    "polling": (
        CPU,
        "server",
        lambda m: server(m).update(args=[a.replace("explicit", "poll") for a in server(m)["args"]]),
    ),
    "a key for the load test": (
        LOAD,
        "admin_key",
        lambda m: m.one("Job", "load-master")["spec"]["template"]["spec"]["volumes"].append(
            {"name": "admin", "secret": {"secretName": "triton-admin"}}
        ),
    ),
    "more than to ask": (RELEASE, "permissions", lambda m: m.one("Role")["rules"][0]["verbs"].append("delete")),
    "role of nobody": (RELEASE, "permissions", lambda m: m.one("RoleBinding")["subjects"][0].update(name="default")),
    "account of nobody": (RELEASE, "permissions", lambda m: m.remove(m.one("ServiceAccount"))),
    "release tried again": (RELEASE, "jobs", lambda m: m.one("Job")["spec"].pop("backoffLimit")),
    "release without a token": (
        RELEASE,
        "security",
        lambda m: m.one("Job")["spec"]["template"]["spec"].update(automountServiceAccountToken=False),
    ),
    "verdict tried again": (LOAD, "jobs", lambda m: m.one("Job", "load-master")["spec"].update(backoffLimit=6)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_rule_finds_the_seeded_mistake(manifests, mistake):
    target, rule, seed = MISTAKES[mistake]
    changed = manifests(target)
    seed(changed)
    assert list(RULES[rule](changed)), mistake


POD = ("Deployment", "spec", "template", "spec")
SERVER = (*POD, "containers", 0)
# Everything that the manifests promise, as the path of the field that keeps it.
PROMISES: dict[str, tuple[str | int, ...]] = {
    "startup probe": (*SERVER, "startupProbe"),
    "readiness probe": (*SERVER, "readinessProbe"),
    "liveness probe": (*SERVER, "livenessProbe"),
    "quick restart": (*SERVER, "livenessProbe", "terminationGracePeriodSeconds"),
    "drain before the end": (*SERVER, "lifecycle"),
    "time to end": (*POD, "terminationGracePeriodSeconds"),
    "resources": (*SERVER, "resources"),
    "memory limit": (*SERVER, "resources", "limits", "memory"),
    "shared memory, writable /tmp": (*POD, "volumes"),
    "shared memory is memory": (*POD, "volumes", -1, "emptyDir", "medium"),
    "not root": (*POD, "securityContext", "runAsNonRoot"),
    "user 1000": (*POD, "securityContext", "runAsUser"),
    "group of the volumes": (*POD, "securityContext", "fsGroup"),
    "seccomp": (*POD, "securityContext", "seccompProfile"),
    "read-only root": (*SERVER, "securityContext", "readOnlyRootFilesystem"),
    "no capabilities": (*SERVER, "securityContext", "capabilities"),
    "no escalation": (*SERVER, "securityContext", "allowPrivilegeEscalation"),
    "of the verifier too": (*POD, "initContainers", 0, "securityContext", "capabilities"),
    "no token": (*POD, "automountServiceAccountToken"),
    "no variables of services": (*POD, "enableServiceLinks"),
    "spread over nodes": (*POD, "topologySpreadConstraints", 1),
    "spread over zones": (*POD, "topologySpreadConstraints", 0),
    "verified models": (*POD, "initContainers", 0),
    "new versions": (*POD, "initContainers", 1),
    "admin key": (*SERVER, "env", 0),
    "settled before it counts": ("Deployment", "spec", "minReadySeconds"),
    "rollout without loss": ("Deployment", "spec", "strategy"),
    "disruption budget": ("PodDisruptionBudget",),
    "bound of the budget": ("PodDisruptionBudget", "spec", "maxUnavailable"),
    "eviction of broken pods": ("PodDisruptionBudget", "spec", "unhealthyPodEvictionPolicy"),
    "network policy": ("NetworkPolicy",),
    "nothing goes out": ("NetworkPolicy", "spec", "policyTypes", 1),
    "clients come in": ("NetworkPolicy", "spec", "ingress", 0),
    "Prometheus comes in": ("NetworkPolicy", "spec", "ingress", 1),
    "the release comes in": ("NetworkPolicy", "spec", "ingress", 2),
    "service": ("Service", "spec", "clusterIP"),
    "HTTP/2 for gateways": ("Service", "spec", "ports", 0, "appProtocol"),
    "calm": ("HorizontalPodAutoscaler", "spec", "behavior", "scaleDown", "stabilizationWindowSeconds"),
}


@pytest.mark.parametrize("target", [CPU, GPU])
@pytest.mark.parametrize("promise", PROMISES)
def test_rule_finds_the_field_that_was_taken_away(manifests, promise, target):
    changed = manifests(target)
    kind, *path = PROMISES[promise]
    item: Any = changed.one(str(kind))
    if not path:
        changed.remove(item)
    else:
        for step in path[:-1]:
            item = item[step]
        del item[path[-1]]
    assert any(_found(rule, changed) for rule in RULES.values()), promise


@pytest.mark.parametrize("target", [CPU, GPU, TLS, "tls-canary", KSERVE])
def test_rule_finds_every_flag_that_was_taken_away(manifests, target):
    arguments = server(manifests(target))["args"]
    for index, argument in enumerate(arguments):
        changed = manifests(target)
        del server(changed)["args"][index]
        assert any(_found(rule, changed) for rule in RULES.values()), argument


def _found(rule: Callable[[Manifests], Iterator[str]], changed: Manifests) -> bool:
    return bool(list(rule(changed)))
