"""What kubectl renders of deploy/k8s, and what a kubelet makes of a container in it."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "k8s"
NAME = "kustomization.yaml"
# What an overlay or a Job becomes with more components, in the order in which they are named.
COMPOSED = {
    "keda": ("overlays/dev", ("scale-with-keda",)),
    "gateway": ("overlays/cpu", ("gateway",)),
    "tls": ("overlays/cpu", ("tls", "gateway", "gateway-tls")),
    "tls-canary": ("base", ("cpu", "models-from-claim", "tls", "canary", "images")),
    "tls-release": ("jobs/release", ("tls-jobs",)),
    "tls-load-test": ("jobs/load-test", ("tls-jobs",)),
}
FOLDERS = sorted(
    str(f.parent.relative_to(FOLDER)) for part in ("overlays", "jobs", "kserve") for f in (FOLDER / part).rglob(NAME)
)
TARGETS = (*FOLDERS, *COMPOSED)
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
WORKLOADS = ("Deployment", "Job")
Object = dict[str, Any]


def render(target: str, scratch: Path) -> str:
    """YAML of a target; `scratch` is an empty folder."""
    folder = FOLDER / target
    if target in COMPOSED:
        folder = scratch
        base, components = COMPOSED[target]
        kustomization = {
            "resources": [_from(scratch, FOLDER / base)],
            "components": [_from(scratch, FOLDER / "components" / name) for name in components],
            "namespace": "rfserve",
        }
        (scratch / NAME).write_text(yaml.safe_dump(kustomization))
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _from(scratch: Path, folder: Path) -> str:
    return os.path.relpath(folder, scratch)


class Manifests(list[Object]):
    """The objects of one target."""

    def of(self, *kinds: str) -> Iterator[Object]:
        yield from (o for o in self if o["kind"] in kinds)

    def one(self, kind: str, name: str | None = None) -> Object:
        (found,) = (o for o in self.of(kind) if name is None or o["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, Object, dict[str, str]]]:
        """(name, specification, labels) of the pods of every workload."""
        for item in self.of(*WORKLOADS):
            template = item["spec"]["template"]
            yield item["metadata"]["name"], template["spec"], template["metadata"]["labels"]
        for item in self.of("Pod"):
            yield item["metadata"]["name"], item["spec"], item["metadata"]["labels"]
        for item in self.of("ServingRuntime"):
            # The security of the pod is in the service that runs it.
            yield item["metadata"]["name"], {**self.one("InferenceService")["spec"]["predictor"], **item["spec"]}, {}

    def server(self) -> Object:
        """The container that runs tritonserver."""
        (found,) = (c for _, pod, _ in self.pods() for c in pod["containers"] if c["command"] == ["tritonserver"])
        return found

    def serves(self) -> bool:
        return any(c["command"] == ["tritonserver"] for _, pod, _ in self.pods() for c in pod["containers"])


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return not selector.items() - labels.items()


def ports(pod: Object) -> list[Object]:
    return [p for c in pod["containers"] for p in c.get("ports", [])]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Object, manifests: Manifests, secrets: Mapping[str, str]) -> dict[str, str]:
    """The variables as a kubelet sets them; `secrets` holds values by secret name and key, as `triton-admin/key`."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= manifests.one("ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            assert source["secretRef"].get("optional"), "a secret that must be there is named key by key"
    for variable in container.get("env", []):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            reference = variable["valueFrom"]["secretKeyRef"]
            found[variable["name"]] = secrets[f"{reference['name']}/{reference['key']}"]
    return found


def command(container: Object, values: Mapping[str, str]) -> list[str]:
    """Command and arguments with their `$(NAME)` replaced; a name that is not set stays as it is, as in a kubelet."""
    words = [*container["command"], *container.get("args", [])]
    return [re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), word) for word in words]
