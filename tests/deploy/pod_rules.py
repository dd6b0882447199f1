"""What an API server, a kubelet or a person on call would find wrong with a pod, and a strict schema does not."""

import re
from collections.abc import Iterator

from rendering import PROBES, Manifests, containers

QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
GPU = "nvidia.com/gpu"


def ports(m: Manifests) -> Iterator[str]:
    for name, pod, _ in m.pods():
        for container in containers(pod):
            names = [p["name"] for p in container.get("ports", [])]
            if len(set(names)) != len(names) or any(not 1 <= len(n) <= 15 for n in names):
                yield f"{name}: container ports are not distinct, or longer than 15 characters: {names}"
            for kind in PROBES:
                asked = container.get(kind, {}).get("httpGet", container.get(kind, {}).get("grpc", {})).get("port")
                if asked is not None and asked not in names:
                    yield f"{name}: {kind} names the port {asked}, which the container has not"


def volumes(m: Manifests) -> Iterator[str]:
    here = {o["metadata"]["name"] for o in m.of("ConfigMap")}
    for name, pod, _ in m.pods():
        there = {v["name"]: v for v in pod.get("volumes", [])}
        mounts = [mount for c in containers(pod) for mount in c.get("volumeMounts", [])]
        for missing in {mount["name"] for mount in mounts} - there.keys():
            yield f"{name}: a mount names the volume {missing}, which is not there"
        for idle in there.keys() - {mount["name"] for mount in mounts}:
            yield f"{name}: nobody mounts the volume {idle}"
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            if len(set(paths)) != len(paths):
                yield f"{name}: two mounts at one path: {paths}"
        for volume in there.values():
            if "configMap" in volume and volume["configMap"]["name"] not in here:
                yield f"{name}: the ConfigMap {volume['configMap']['name']} is not there"
            if "hostPath" in volume:
                yield f"{name}: mounts a folder of its node"
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{name}: {volume['name']} may fill the disk of its node"


def variables(m: Manifests) -> Iterator[str]:
    """A `$(NAME)` that is not set is passed as it is, and a ConfigMap that is missing keeps the pod from starting."""
    maps = {o["metadata"]["name"]: o["data"] for o in m.of("ConfigMap")}
    for name, pod, _ in m.pods():
        for container in containers(pod):
            known = {v["name"] for v in container.get("env", [])}
            for source in container.get("envFrom", []):
                reference = source.get("configMapRef", {}).get("name")
                if reference is not None and reference not in maps:
                    yield f"{name}: the ConfigMap {reference} is not there"
                known |= maps.get(reference, {}).keys()
            used = set(re.findall(r"\$\((\w+)\)", " ".join([*container["command"], *container.get("args", [])])))
            if used - known:
                yield f"{name}: {container['name']} uses {sorted(used - known)}, which nothing sets"


def resources(m: Manifests) -> Iterator[str]:
    for name, pod, _ in m.pods():
        for container in containers(pod):
            where = f"{name}/{container['name']}"
            asked = container.get("resources", {}).get("requests", {})
            limits = container.get("resources", {}).get("limits", {})
            for quantity in [*asked.values(), *limits.values()]:
                if not QUANTITY.fullmatch(str(quantity)):
                    yield f"{where}: {quantity!r} is no quantity"
            if "cpu" not in asked or "memory" not in asked:
                yield f"{where}: requests no CPU or no memory"
            if asked.get("memory") != limits.get("memory"):
                yield f"{where}: the memory request is not its limit"
            if "cpu" in limits:
                yield f"{where}: the CPU is throttled"
            if asked.get(GPU) != limits.get(GPU):
                yield f"{where}: the GPU request is not its limit"


def security(m: Manifests) -> Iterator[str]:
    """PodSecurity `restricted`, and what it does not ask for."""
    for name, pod, labels in m.pods():
        of_pod = pod.get("securityContext", {})
        if of_pod.get("runAsNonRoot") is not True or of_pod.get("runAsUser") != 1000:
            yield f"{name}: may run as root, or not as the user 1000"
        if of_pod.get("fsGroup") != 1000:
            yield f"{name}: may not write to its claim, or read a secret"
        if of_pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: has no seccomp profile"
        if any(pod.get(k) for k in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name}: shares a namespace of its node"
        # Only a release asks the API server.
        wants_token = labels.get("app.kubernetes.io/component") == "release"
        if pod.get("automountServiceAccountToken") is not wants_token:
            yield f"{name}: a service account's token is mounted for nobody, or missing"
        if not list(m.of("ServingRuntime")) and pod.get("enableServiceLinks") is not False:
            yield f"{name}: gets a variable for every Service"


def privileges(m: Manifests) -> Iterator[str]:
    every = [(name, container) for name, pod, _ in m.pods() for container in containers(pod)]
    # KServe puts it into the server's pod.
    every += [(o["metadata"]["name"], o["spec"]["container"]) for o in m.of("ClusterStorageContainer")]
    for name, container in every:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name}/{container['name']}: may gain privileges"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}/{container['name']}: can write to its own file system"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name}/{container['name']}: keeps capabilities"
        if own.get("privileged") or own.get("runAsUser", 1000) == 0:
            yield f"{name}/{container['name']}: is privileged"


def admin_key(m: Manifests) -> Iterator[str]:
    """Only servers, which ask for it, and the release have it."""
    for name, pod, labels in m.pods():
        serves = any(c["command"] == ["tritonserver"] for c in pod["containers"])
        if "triton-admin" in str(pod) and not serves and labels.get("app.kubernetes.io/component") != "release":
            yield f"{name}: gets the administrator's key, and does not need it"


def images(m: Manifests) -> Iterator[str]:
    found = [c["image"] for _, pod, _ in m.pods() for c in containers(pod)]
    found += [o["spec"]["container"]["image"] for o in m.of("ClusterStorageContainer")]
    for image in found:
        tag = image.rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"}:
            yield f"the image {image} is not pinned"


RULES = (ports, volumes, variables, resources, security, privileges, admin_key, images)
