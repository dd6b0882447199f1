"""What an API server, a kubelet or a person on call would find wrong with a pod, and a strict schema does not."""

import re
from collections.abc import Iterator

from rendering import Manifests, containers

from rfserve.export import canary_requests
from rfserve.server.binary import ALLOCATOR
from rfserve.server.security import ADMINISTRATIVE

QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
GPU = "nvidia.com/gpu"
# gRPC's own pause between two looks at a name, and what the cluster's DNS keeps an answer for at most.
ASK_AGAIN_S, DNS_KEEPS_S = 30, 30
# What a restart by the liveness probe may take to end: nothing is left to drain.
RESTART_S = 15
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SERVER_FLAGS = (
    "--model-control-mode=explicit",
    "--load-model=*",
    "--strict-readiness=false",
    "--metrics-config=summary_latencies=true",
    "--http-address=127.0.0.1",
    "--metrics-address=0.0.0.0",
)


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
        for container in containers(pod):
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


def ending(m: Manifests) -> Iterator[str]:
    """Drain, then finish, then be killed: each must end before the next."""
    if not m.serves():
        return
    (pod,) = (p for _, p, _ in m.pods() if m.server() in p["containers"])
    hook = m.server().get("lifecycle", {}).get("preStop", {})
    age_s = int(flag(m, "--grpc-max-connection-age") or 10**9) / 1000
    away_s = 1.1 * age_s + ASK_AGAIN_S + DNS_KEEPS_S
    if len(hook) != 1 or hook.get("sleep", {}).get("seconds", 0) < away_s:
        yield f"preStop needs exactly one handler, a sleep of {away_s:.0f} s until every client has gone elsewhere"
        return
    exit_s = flag(m, "--exit-timeout-secs")
    grace_s = pod.get("terminationGracePeriodSeconds", 30)
    if exit_s is None or not hook["sleep"]["seconds"] + int(exit_s) < grace_s:
        yield f"preStop and --exit-timeout-secs={exit_s} do not fit into {grace_s} s"


def probes(m: Manifests) -> Iterator[str]:
    if not m.serves():
        return
    server = m.server()
    for kind, word in zip(PROBES, ("ready", "ready", "live"), strict=True):
        probe = server.get(kind, {})
        if probe.get("exec", {}).get("command") != ["python3", "/probe/probe.py", word]:
            yield f"{kind} does not ask the models"
            return
    startup, ready, live = (server[kind] for kind in PROBES)
    if startup["periodSeconds"] * startup["failureThreshold"] < 600:
        yield "a cold, large model takes up to 600 s to load"
    if live["timeoutSeconds"] < canary_requests.DEADLINE_S + 1:
        yield f"the liveness probe ends before its inferences, which have {canary_requests.DEADLINE_S} s"
    if live["periodSeconds"] * live["failureThreshold"] < 60:
        yield "a busy pod would be killed in less than a minute"
    if not 1 <= live.get("terminationGracePeriodSeconds", 0) <= RESTART_S:
        yield f"a server that hangs would be drained first; expected to end within {RESTART_S} s"
    if ready["timeoutSeconds"] < 3:
        yield "a busy pod needs more than a second to answer"


def server(m: Manifests) -> Iterator[str]:
    if not m.serves():
        return
    arguments = m.server()["args"]
    for wanted in SERVER_FLAGS:
        if wanted not in arguments:
            yield f"{wanted} is missing"
    if int(flag(m, "--grpc-max-connection-age-grace") or 0) < 10_000:
        yield "long calls would end with their connection"
    for name, beyond in (("--grpc-restricted-protocol", set()), ("--http-restricted-api", {"inference"})):
        apis, _, key = (flag(m, name) or "").partition(":")
        if set(apis.split(",")) != set(ADMINISTRATIVE) | beyond or key != "admin-key=$(ADMIN_KEY)":
            yield f"{name} does not close what administrators do"
    values = {v["name"]: v for v in m.server()["env"]}
    if values.get("ADMIN_KEY", {}).get("valueFrom", {}).get("secretKeyRef") != {"name": "triton-admin", "key": "key"}:
        yield "the administrator's key is not from its Secret"
    if {n: values.get(n, {}).get("value") for n in ALLOCATOR} != ALLOCATOR:
        yield "the allocator's settings are not those of deploy/server/binary.py"
    (pod,) = (p for _, p, _ in m.pods() if m.server() in p["containers"])
    there = {v["name"]: v for v in pod["volumes"]}
    at = {mount["mountPath"]: mount["name"] for mount in m.server()["volumeMounts"]}
    if there.get(at.get("/dev/shm", ""), {}).get("emptyDir", {}).get("medium") != "Memory":
        yield "/dev/shm is not memory of its own"
    if "emptyDir" not in there.get(at.get("/tmp", ""), {}):
        yield "/tmp cannot be written, and tritonserver writes there"


def verified_models(m: Manifests) -> Iterator[str]:
    for item in m.of("Deployment"):
        pod = item["spec"]["template"]["spec"]
        steps = pod.get("initContainers", [])
        first = steps[0] if steps else {}
        if first.get("command", [])[-1:] != ["rfserve.export.commands.fetch"] or "restartPolicy" in first:
            yield "nothing verifies the models before they are loaded"
            return
        if not any(s.get("restartPolicy") == "Always" and s["command"] == first["command"] for s in steps[1:]):
            yield "nothing brings new versions to a pod that runs"
        mount = next((v for v in m.server()["volumeMounts"] if v["mountPath"] == "/models"), {})
        if not mount.get("readOnly") or "--model-repository=/models/repository" not in m.server()["args"]:
            yield "the server can change its models, or serves others than the verified ones"


def flag(m: Manifests, name: str) -> str | None:
    """The value of one of tritonserver's arguments."""
    return next((a.partition("=")[2] for a in m.server()["args"] if a.partition("=")[0] == name), None)


RULES = (ports, volumes, variables, resources, security, admin_key, images, ending, probes, server, verified_models)
