"""The pod of the CPU overlay with a real tritonserver: its init container, its flags, its restrictions, its probes."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import local_pod
import pytest

from rfserve.export.commands import fetch
from rfserve.export.repository import Repository
from rfserve.export.serving_copy import ServingCopy

pytestmark = [pytest.mark.server, pytest.mark.skipif(bool(local_pod.impossible()), reason=local_pod.impossible())]

KEY = "of-the-administrator"
MODELS = ("mel_features", "iq_features", "heimdall_net", "locate")


@pytest.fixture(scope="module")
def claim(repository: Path, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("claim")
    for model in MODELS:
        shutil.copytree(repository / model, folder / "model_repository" / model)
    # As a new file system has it: nobody else may read it.
    (folder / "lost+found").mkdir(mode=0o700)
    folder.chmod(0o755)
    return folder


def pod_at(folder: Path, manifests, claim: Path) -> local_pod.LocalPod:
    secrets = {"triton-admin/key": KEY}
    return local_pod.LocalPod(manifests("overlays/cpu"), folder, secrets=secrets, claims={"model-repository": claim})


@pytest.fixture(scope="module")
def pod(manifests, claim, tmp_path_factory) -> local_pod.LocalPod:
    folder = tmp_path_factory.mktemp("pod")
    for above in (folder, *folder.parents):
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o711)
    made = pod_at(folder, manifests, claim)
    done = made.init(made.specification["initContainers"][0])
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def running(pod) -> Iterator[local_pod.Running]:
    with pod.running(pod.specification["containers"][0]) as found:
        assert found.probe("startupProbe")[0] is False
        found.wait_for("startupProbe", True, 60)
        yield found


def test_init_container_copies_and_verifies(pod):
    copied = pod.volumes["models"] / "repository"
    assert sorted(f.name for f in copied.iterdir()) == sorted(MODELS)


def test_init_container_refuses_a_changed_file(manifests, claim, tmp_path):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(claim, spoilt)
    graph = spoilt / "model_repository" / "heimdall_net" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    tmp_path.chmod(0o755)
    made = pod_at(tmp_path, manifests, spoilt)
    done = made.init(made.specification["initContainers"][0])
    assert done.returncode == 1
    assert "heimdall_net/1 in /source/model_repository is not as it was published: model.onnx changed" in done.stderr


def test_copier_ends_when_it_is_told_to(pod):
    """A kubelet tells it when the server has ended, and kills it when the pod's time is over."""
    caught = 1 << (signal.SIGTERM - 1)
    with pod.running(pod.specification["initContainers"][1]) as found:
        deadline = time.monotonic() + 60
        while not int(found.status()["SigCgt"], 16) & caught:
            assert time.monotonic() < deadline, found.log
            time.sleep(0.1)
        os.kill(found.pid, signal.SIGTERM)
        assert found.process.wait(10) == fetch.TOLD_TO_END, found.log


def test_server_runs_as_nobody_in_particular(running):
    status = running.status()
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0000000000000000"}
    assert status["NoNewPrivs"] == "1"
    assert "--model-config-name=cpu" in Path(f"/proc/{running.pid}/cmdline").read_text()


@pytest.mark.parametrize("place", ["/file", "/models/file", "/probe/file", "/usr/file"])
def test_server_can_change_neither_programs_nor_models(running, place):
    done = running.exec(["touch", place])
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("place", ["/tmp/file", "/dev/shm/file"])
def test_server_can_write_what_it_must(running, place):
    assert running.exec(["touch", place]).returncode == 0


def test_probes_pass(running):
    for kind in ("readinessProbe", "livenessProbe"):
        assert running.probe(kind) == (True, "")


ASK = """
import sys, urllib.error, urllib.request
path, key = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:8000" + path, data=b"{}", headers={"admin-key": key})
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_administration_and_inference_over_http_need_the_key(running):
    def ask(path: str, key: str) -> str:
        return running.exec(["python3", "-c", ASK, path, key]).stdout.strip()

    for path in ("/v2/repository/index", "/v2/models/mel_features/infer"):
        assert ask(path, "") == "403"
    assert ask("/v2/repository/index", KEY) == "200"


def test_metrics_have_latencies(running):
    code = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8002/metrics').read().decode())"
    page = running.exec(["python3", "-c", code]).stdout
    assert 'nv_inference_request_summary_us{model="mel_features",version="1",quantile="0.99"}' in page


def test_model_that_is_away_makes_the_pod_unready_and_not_dead(running):
    def act(verb: str) -> str:
        return running.exec(["python3", "-c", ASK, f"/v2/repository/models/mel_features/{verb}", KEY]).stdout.strip()

    assert act("unload") == "200"
    said = running.wait_for("readinessProbe", False, 20)
    assert said == "mel_features is not ready (400)\n"
    assert running.probe("livenessProbe") == (True, "")
    assert act("load") == "200"
    running.wait_for("readinessProbe", True, 20)


def test_new_model_leaves_the_pod_ready_and_is_served_once_a_release_loads_it(running, pod, claim, repository):
    """As `new-versions` copies it, without its wait."""
    source, models = claim / "model_repository", pod.volumes["models"]
    copy = ServingCopy(
        source=Repository(source), folder=models / "repository", target="cpu", canaries=models / "canaries"
    )
    coming = source / "heimdall_net_pro"
    shutil.copytree(repository / "heimdall_net_pro", coming)
    try:
        assert copy.update(anew=False) == ["heimdall_net_pro/1 copied and verified"]
    finally:
        shutil.rmtree(coming)
    assert running.probe("readinessProbe") == (True, "")
    assert running.probe("livenessProbe") == (True, "")

    def act(verb: str) -> str:
        words = ["python3", "-c", ASK, f"/v2/repository/models/heimdall_net_pro/{verb}", KEY]
        return running.exec(words).stdout.strip()

    def is_served() -> bool:
        code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/models/heimdall_net_pro/ready')"
        return running.exec(["python3", "-c", code]).returncode == 0

    assert not is_served()
    assert act("load") == "200"
    assert is_served()
    assert running.probe("readinessProbe") == (True, "")
    assert act("unload") == "200"


def test_server_ends_by_itself_on_sigterm(manifests, claim, tmp_path):
    tmp_path.chmod(0o755)
    made = pod_at(tmp_path, manifests, claim)
    small = claim.parent / f"{claim.name}-small"
    shutil.copytree(claim / "model_repository" / "mel_features", small / "model_repository" / "mel_features")
    small.chmod(0o755)
    made.volumes["source"] = small
    done = made.init(made.specification["initContainers"][0])
    assert done.returncode == 0, done.stderr
    with made.running(made.specification["containers"][0]) as found:
        found.wait_for("startupProbe", True, 60)
        began = time.monotonic()
        os.kill(found.pid, signal.SIGTERM)
        assert found.process.wait(45) == 0, found.log
        assert time.monotonic() - began < 45


def test_variable_for_probe_is_seen_by_the_kubelet_too(running):
    """The probe has the container's variables: without the key it would be refused."""
    enter = ["nsenter", "--target", str(running.pid), "--mount", "--net", "--pid", "--root", "--wd=/"]
    path = running._pod._environment(running._container)["PATH"]
    words = [*enter, *local_pod.DROPPED, "env", "-i", f"PATH={path}", "python3", "/probe/probe.py", "live"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the key in ADMIN_KEY is not the server's" in done.stdout


@pytest.mark.parametrize("instance", ["heimdall_net_0_0", "mel_features_0_1"])
def test_stopped_instance_fails_liveness_alone(running, instance):
    pid, inner = running.stubs()[instance]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert running.probe("livenessProbe") == (False, f"triton_python_backend_stub {inner} is stopped\n")
        assert running.probe("readinessProbe") == (True, "")
    finally:
        os.kill(pid, signal.SIGCONT)
    running.wait_for("livenessProbe", True, 20)


def test_dead_instance_fails_liveness_alone(running):
    """The last: nothing mends it here, and a kubelet would restart the container."""
    pid, inner = running.stubs()["mel_features_0_0"]
    os.kill(pid, signal.SIGKILL)
    said = running.wait_for("livenessProbe", False, 20)
    assert f"triton_python_backend_stub {inner} has died" in said
    assert running.probe("readinessProbe") == (True, "")
