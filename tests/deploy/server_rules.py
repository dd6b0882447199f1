"""What would be wrong with how a server is started, asked and ended, and a strict schema lets through."""

from collections.abc import Iterator

from rendering import PROBES, Manifests

from rfserve.export import canary_requests
from rfserve.server.binary import ALLOCATOR
from rfserve.server.security import ADMINISTRATIVE

# gRPC's own pause between two looks at a name, and what the cluster's DNS keeps an answer for at most.
ASK_AGAIN_S, DNS_KEEPS_S = 30, 30
# What a restart by the liveness probe may take to end: nothing is left to drain.
RESTART_S = 15
SERVER_FLAGS = (
    "--model-control-mode=explicit",
    "--load-model=*",
    "--strict-readiness=false",
    "--metrics-config=summary_latencies=true",
    "--http-address=127.0.0.1",
    "--metrics-address=0.0.0.0",
)
ENCRYPTING = ("--grpc-use-ssl", "--grpc-server-cert", "--grpc-server-key")


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
    if flag(m, "--model-repository") not in {"/models/repository", "/mnt/models/repository"}:
        yield "it serves others than the verified models"
    if flag(m, "--model-config-name") not in {"$(TARGET)", "cpu", "gpu"}:
        yield "no target's configuration is named"
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


def encryption(m: Manifests) -> Iterator[str]:
    """Whatever of TLS there is, all of it has to be."""
    if not m.serves():
        return
    (pod,) = (p for _, p, _ in m.pods() if m.server() in p["containers"])
    given = {name: flag(m, name) for name in ENCRYPTING}
    certificates = [v for v in pod["volumes"] if v.get("secret", {}).get("secretName") == "triton-tls"]
    if not certificates and not any(given.values()) and not any(m.of("Certificate")):
        return
    at = {v["mountPath"] for v in m.server()["volumeMounts"] if v["name"] in {c["name"] for c in certificates}}
    place = next(iter(at), "")
    expected = dict(zip(ENCRYPTING, ("true", f"{place}/tls.crt", f"{place}/tls.key"), strict=True))
    if not place or given != expected:
        yield f"the server has a certificate, or uses one, and not both: {given}"
    for port in (p for o in m.of("Service") for p in o["spec"]["ports"] if p["name"] == "grpc"):
        if port.get("appProtocol") != "https":
            yield "gateways send in the clear what the server takes encrypted"


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


RULES = (ending, probes, server, encryption, verified_models)
