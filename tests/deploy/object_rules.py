"""What an API server, or a person on call, would find wrong with how objects fit together, and schemas do not."""

from collections.abc import Iterator

from rendering import Manifests, Object, ports, selects
from route_rules import BESIDE

# Each kind's only version that servers of every supported release have.
API_VERSIONS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "PersistentVolumeClaim": "v1",
    "Pod": "v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "BackendTLSPolicy": "gateway.networking.k8s.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "Certificate": "cert-manager.io/v1",
    "ClusterStorageContainer": "serving.kserve.io/v1alpha1",
    "ServingRuntime": "serving.kserve.io/v1alpha1",
    "InferenceService": "serving.kserve.io/v1beta1",
}
CLUSTER_WIDE = {"ClusterStorageContainer"}


def kinds(m: Manifests) -> Iterator[str]:
    for item in m:
        kind, name = item["kind"], item["metadata"]["name"]
        if item["apiVersion"] != API_VERSIONS.get(kind):
            yield f"{kind} {name}: got {item['apiVersion']}; expected {API_VERSIONS.get(kind, 'another kind')}"
        if (item["metadata"].get("namespace") == "rfserve") == (kind in CLUSTER_WIDE):
            yield f"{kind} {name}: is not in the namespace rfserve, or cannot be in one"
        if kind == "Secret":
            yield f"Secret {name}: a secret is in the repository"


def selectors(m: Manifests) -> Iterator[str]:
    labels = [found for _, _, found in m.pods()]
    for item in m.of("Deployment"):
        template = item["spec"]["template"]
        for spread in template["spec"]["topologySpreadConstraints"]:
            if not selects(spread["labelSelector"]["matchLabels"], template["metadata"]["labels"]):
                yield f"a spread of {item['metadata']['name']} does not count its pods"
        if not selects(item["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]):
            yield f"Deployment {item['metadata']['name']} does not select its pods"
    chosen = {f"Service {o['metadata']['name']}": o["spec"]["selector"] for o in _services_of_pods(m)}
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        chosen |= {f"{kind} {o['metadata']['name']}": o["spec"][path]["matchLabels"] for o in m.of(kind)}
    for what, selector in chosen.items():
        if not any(selects(selector, found) for found in labels):
            yield f"{what} selects no pod"


def services(m: Manifests) -> Iterator[str]:
    for item in m.of("Service"):
        spec = item["spec"]
        there = {p["name"] for _, pod, found in m.pods() if selects(spec["selector"], found) for p in ports(pod)}
        names = [p["name"] for p in spec["ports"]]
        if len(set(names)) != len(names):
            yield f"Service {item['metadata']['name']}: port names are not distinct: {names}"
        for port in spec["ports"] if item["metadata"]["name"] not in BESIDE else ():
            target = port["targetPort"]
            if target not in there or len(str(target)) > 15:
                yield f"Service {item['metadata']['name']}: no container has the port {target}"
        if spec.get("clusterIP") != "None":
            yield f"Service {item['metadata']['name']} is not headless: all calls of a gRPC client would go to one pod"
        grpc = [p for p in spec["ports"] if p["name"] == "grpc"]
        if any(p.get("appProtocol") not in {"kubernetes.io/h2c", "https"} for p in grpc):
            yield f"Service {item['metadata']['name']}: gateways take gRPC for HTTP/1"


def disruption(m: Manifests) -> Iterator[str]:
    for item in m.of("PodDisruptionBudget"):
        if len({"minAvailable", "maxUnavailable"} & item["spec"].keys()) != 1:
            yield "the disruption budget needs exactly one bound"
        if item["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield "a pod that is broken anyway could keep a node from being drained"
    for item in m.of("Deployment"):
        if not any(selects(b["spec"]["selector"]["matchLabels"], _labels(item)) for b in m.of("PodDisruptionBudget")):
            yield f"nothing bounds how many pods of {item['metadata']['name']} a drain may end at once"


def rollout(m: Manifests) -> Iterator[str]:
    for item in m.of("Deployment"):
        spec = item["spec"]
        pod = spec["template"]["spec"]
        on_gpu = any("nvidia.com/gpu" in c["resources"]["limits"] for c in pod["containers"])
        step = spec.get("strategy", {}).get("rollingUpdate", {})
        if (step.get("maxSurge"), step.get("maxUnavailable")) != ((0, 1) if on_gpu else (1, 0)):
            yield f"a rollout would need a GPU that nobody has, or lose a pod: {step}"
        if spec.get("minReadySeconds", 0) < 10:
            yield "a pod that fails in its first seconds counts as available"
        startup = m.server()["startupProbe"]
        if spec.get("progressDeadlineSeconds", 600) <= startup["periodSeconds"] * startup["failureThreshold"]:
            yield "a rollout counts as failed before its pods may have started"
        topology = {c["topologyKey"] for c in pod.get("topologySpreadConstraints", [])}
        # A single pod cannot be spread over zones.
        if topology != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} and spec.get("replicas") != 1:
            yield f"all pods may be on one node, or in one zone: they are spread over {sorted(topology)}"


def scaling(m: Manifests) -> Iterator[str]:
    for item in m.of("HorizontalPodAutoscaler", "ScaledObject"):
        spec = item["spec"]
        least, most = (spec.get(f"{k}Replicas", spec.get(f"{k}ReplicaCount")) for k in ("min", "max"))
        if least is None or most is None or not 2 <= least <= most:
            yield f"got {least} to {most} pods; expected from 2 on, and the least first"
        target = [d for d in m.of("Deployment") if d["metadata"]["name"] == spec["scaleTargetRef"]["name"]]
        if not target or "replicas" in target[0]["spec"]:
            yield "what is scaled is not there, or says its number itself: an apply would set it back"
        behavior = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        if behavior["scaleDown"].get("stabilizationWindowSeconds", 0) < 300:
            yield "pods that take a minute to start would be taken away at once"
    if any(m.of("ScaledObject")) and "fallback" not in m.one("ScaledObject")["spec"]:
        yield "without Prometheus there is no number of pods"
    if any(m.of("ScaledObject")) and any(m.of("HorizontalPodAutoscaler")):
        yield "two autoscalers for one Deployment"


def permissions(m: Manifests) -> Iterator[str]:
    for item in m.of("Role"):
        for rule in item["rules"]:
            if set(rule["verbs"]) - {"get", "list"} or rule["resources"] != ["endpointslices"]:
                yield f"{item['metadata']['name']} may do more than ask which pods there are: {rule}"
    for item in m.of("RoleBinding"):
        named = {o["metadata"]["name"] for o in m.of("ServiceAccount")}
        if any(s["name"] not in named or s.get("namespace") != "rfserve" for s in item["subjects"]):
            yield "the role is bound to nobody"
    accounts = {o["metadata"]["name"] for o in m.of("ServiceAccount")}
    for name, pod, _ in m.pods():
        if pod.get("serviceAccountName") is not None and pod["serviceAccountName"] not in accounts:
            yield f"{name}: the service account {pod['serviceAccountName']} is not there"


def jobs(m: Manifests) -> Iterator[str]:
    for item in m.of("Job"):
        spec = item["spec"]
        if spec["template"]["spec"].get("restartPolicy") != "Never":
            yield f"{item['metadata']['name']}: its exit code would start it again"
        worker = _labels(item)["app.kubernetes.io/component"] == "load-worker"
        if not worker and spec.get("backoffLimit") != 0:
            yield f"{item['metadata']['name']}: its verdict would be asked for again until it is another"


def _services_of_pods(m: Manifests) -> list[Object]:
    return [o for o in m.of("Service") if o["metadata"]["name"] not in BESIDE]


def _labels(item: Object) -> dict[str, str]:
    found: dict[str, str] = item["spec"]["template"]["metadata"]["labels"]
    return found


RULES = (kinds, selectors, services, disruption, rollout, scaling, permissions, jobs)
