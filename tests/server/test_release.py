"""A version released to several real tritonservers: all of them, or none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from served import BriefServer

from rfserve.export import onnx_file, release
from rfserve.export.errors import LiveServerError
from rfserve.export.live import LiveServer
from rfserve.export.manifest import GRAPH_FILE, Manifest
from rfserve.export.repository import Repository, version_files
from rfserve.export.spec import GRAPHS, ModelSpec, example, find
from rfserve.export.spec.queueing import REFUSAL_TEXTS
from rfserve.release.cluster import ClusterApi
from rfserve.release.endpoint_slices import ServicePods
from rfserve.release.errors import NotEverywhere, NotReleased, NotRestored
from rfserve.release.pod_server import Access
from rfserve.release.pods import NamedPods
from rfserve.release.rollout import Rollout
from rfserve.release.steps import Steps
from rfserve.server.cli import main as serve
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security

pytestmark = pytest.mark.server

SPEC = GRAPHS["mel_features"]
KEY = "only-for-the-administrator"


def again(repository: Repository, spec: ModelSpec, change: Callable[[onnx.ModelProto], None] | None = None) -> int:
    """Publish the first version's graph once more, changed or not."""
    graph = onnx.load(repository.folder / spec.name / "1" / GRAPH_FILE)

    def fill(folder: Path):
        if change is not None:
            change(graph)
        onnx_file.save(graph, folder / GRAPH_FILE)
        first, files = repository.manifest(spec.name, 1), version_files(folder)
        return lambda number: Manifest(
            model=spec.name, version=number, weights="seed 1", files=files, opset=spec.opset, scaling=first.scaling
        )

    return repository.publish(spec, fill).version


def altered(graph: onnx.ModelProto) -> None:
    """Other numbers in a graph that is as whole: the largest of its constants, by up to five per cent."""
    numbers = [w for w in graph.graph.initializer if w.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)]
    largest = max(numbers, key=lambda w: len(w.raw_data))
    values = numpy_helper.to_array(largest)
    factors = np.linspace(1, 1.05, values.size, dtype=values.dtype).reshape(values.shape)
    largest.CopyFrom(numpy_helper.from_array(values * factors, largest.name))


def started(folder: Path) -> TritonServer:
    security = Security(admin_key=KEY)
    return BriefServer(ServerOptions(repository=folder, grpc_port=0, http_port=0, metrics_port=0, security=security))


@pytest.fixture(scope="module")
def shared(small_model: Path, tmp_path_factory) -> Path:
    """A repository of two versions, the first promoted."""
    shared = Path(shutil.copytree(small_model, tmp_path_factory.mktemp("shared") / "repository"))
    again(Repository(shared), SPEC)
    release.promote(Repository(shared), SPEC, 1)
    return shared


@pytest.fixture(scope="module")
def first(shared: Path) -> Iterator[TritonServer]:
    """A pod that serves from the shared repository."""
    with started(shared) as server:
        yield server


@pytest.fixture(scope="module")
def copied(shared: Path, tmp_path_factory) -> Iterator[TritonServer]:
    """A pod with a copy of its own, which its node may spoil."""
    with started(Path(shutil.copytree(shared, tmp_path_factory.mktemp("own") / "repository"))) as server:
        yield server


@pytest.fixture
def pods(first: TritonServer, copied: TritonServer) -> list[TritonServer]:
    """Both, on version 1 and with the alias at it, whatever the test before left."""
    repository = Repository(Path(first.options.repository))
    if repository.serving(SPEC.name).promoted != {"cpu": 1, "gpu": 1}:
        release.promote(repository, SPEC, 1)
    for server in (first, copied):
        with LiveServer(server.grpc_url, 30, KEY) as live:
            own = live.configuration(SPEC.name)
            own.version_policy.specific.versions[:] = [1]
            live.load(SPEC.name, own)
    return [first, copied]


def test_ensemble_is_released_without_a_rehearsal(repository):
    steps = Steps(Repository(repository), find("locate"), {"cpu": 1})
    assert (steps.unrehearsed, steps.rehearsals_at_once > 1) == ("an ensemble has no graph of its own", True)


def served(*servers: TritonServer) -> list[list[int]]:
    found = []
    for server in servers:
        with LiveServer(server.grpc_url, 30, KEY) as live:
            assert live.ready_models() == [SPEC.name]
            found.append(live.served_versions(SPEC.name))
    return found


class Lines(list[str]):
    """What a release reports; does something once a line has a text."""

    def __init__(self, text: str = "", then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._text, self._then = text, then

    def __call__(self, line: str) -> None:
        self.append(line)
        if self._text and self._text in line:
            self._text = ""
            self._then()


def rollout(folder: Path, fleet, lines: Lines | None = None, timeout_s: float = 30) -> Rollout:
    if isinstance(fleet, list):
        fleet = NamedPods([s.grpc_url for s in fleet])
    access = Access(timeout_s=timeout_s, admin_key=KEY)
    return Rollout(Repository(folder), SPEC, fleet, access, report=Lines() if lines is None else lines)


class Caller(threading.Thread):
    """Asks without naming a version, and keeps which one answered."""

    def __init__(self, server: TritonServer) -> None:
        super().__init__()
        self._url, self.versions, self.failures, self.stop = server.grpc_url, [], [], threading.Event()

    def run(self) -> None:
        inputs = example(SPEC)
        with LiveServer(self._url, 30) as live:
            while not self.stop.wait(0.02):
                try:
                    self.versions.append(live.infer(SPEC.name, inputs)[1])
                except LiveServerError as error:
                    # A machine that starts another server may be too busy for the queue's limits.
                    if not any(text in str(error) for text in REFUSAL_TEXTS):
                        self.failures.append(str(error))

    def __enter__(self) -> "Caller":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.join(60)


@pytest.fixture
def service(cluster) -> ServicePods:
    host, _, port = cluster.url.removeprefix("https://").rpartition(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    return ServicePods(ClusterApi.of_pod(environment, folder=cluster.account), "triton", "grpc")


def test_every_pod_serves_the_version_and_one_that_starts_later_too(shared, pods, cluster, service):
    """One of them comes while the other one loads."""
    early, late = (server.grpc_url for server in pods)
    cluster.before = lambda look: cluster.serve({"early": early} | ({"late": late} if look else {}))
    lines = Lines()
    with Caller(pods[0]) as caller:
        done = rollout(shared, service, lines)
        assert done.release(2) == {"cpu": 2, "gpu": 2}
        assert served(*pods) == [[2], [2]]
        assert done.repository.serving(SPEC.name).promoted == {"cpu": 2, "gpu": 2}
        with started(shared) as later:
            assert served(later) == [[2]]
        assert rollout(shared, service).rollback() == {"cpu": 1, "gpu": 1}
    assert served(*pods) == [[1], [1]]
    assert [e.action for e in done.repository.serving(SPEC.name).events[-2:]] == ["promote", "rollback"]
    assert (caller.failures, set(caller.versions), caller.versions[-1]) == ([], {1, 2}, 1)
    steps = ("serves version 1", "rehearsed version 2", "loaded version 2 beside version 1")
    said = [
        next(i for i, t in enumerate(lines) if t.startswith(pod) and text in t)
        for pod in ("early", "late")
        for text in steps
    ]
    # No pod drops the old version before the alias stands, and none is left out.
    said.append(next(i for i, text in enumerate(lines) if text.startswith("the alias")))
    said += sorted(i for i, text in enumerate(lines) if "serves version 2 alone" in text)
    assert (said, len(said)) == (sorted(said), 9), lines
    document = done.pods[next(iter(done.pods))].document()
    assert (document["name"], document["address"], document["served_before"]) == ("early", early, [1])
    assert document["checked"]["rows"] == 5
    assert set(document["seconds"]) == {"rehearsal", "load", "move"}


def cut(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:1000])


def other(graph: Path) -> None:
    changed = onnx.load(graph)
    altered(changed)
    onnx.save(changed, graph)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (cut, r"cannot load mel_features: INVALID_ARGUMENT: .*version 2 is at UNAVAILABLE state"),
        (other, r"mel_features/2 answers mel_spectrogram that differ by"),
    ],
    ids=["cut off", "other weights"],
)
def test_pod_whose_copy_is_spoilt_keeps_all_pods_as_they_were(shared, pods, change, reason):
    history = Repository(shared).serving(SPEC.name)
    graph = Path(pods[1].options.repository) / SPEC.name / "2" / GRAPH_FILE
    whole = graph.read_bytes()
    change(graph)
    lines = Lines()
    done = rollout(shared, pods, lines)
    try:
        with Caller(pods[1]) as caller, pytest.raises(NotReleased, match=reason) as refused:
            done.release(2)
    finally:
        graph.write_bytes(whole)
    assert type(refused.value) is NotReleased
    assert pods[1].grpc_url in str(refused.value)
    assert pods[0].grpc_url not in str(refused.value)
    assert served(*pods) == [[1], [1]]
    assert Repository(shared).serving(SPEC.name) == history
    assert caller.failures == []
    assert not done.alias_moved
    assert sum("serves version 1 again" in line for line in lines) == 2


def test_version_that_fails_its_rehearsal_is_met_by_no_client(shared, pods, monkeypatch):
    """The served file and the conformance set disagree, as when a pod's processor or ONNX Runtime is at fault."""
    history = Repository(shared).serving(SPEC.name)
    read = Path.read_bytes

    def read_altered(self: Path) -> bytes:
        content = read(self)
        if self.parts[-2:] != ("2", GRAPH_FILE):
            return content
        graph = onnx.load_from_string(content)
        altered(graph)
        return graph.SerializeToString()

    with Caller(pods[0]) as caller, monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_altered)
        with pytest.raises(NotReleased, match=r"answers mel_spectrogram that differ"):
            rollout(shared, pods).release(2)
    assert served(*pods) == [[1], [1]]
    assert Repository(shared).serving(SPEC.name) == history
    assert (caller.failures, set(caller.versions)) == ([], {1})


def test_pod_that_dies_after_it_loaded_keeps_the_alias_where_it_is(shared, pods):
    history = Repository(shared).serving(SPEC.name)
    with started(shared) as dying:
        lines = Lines(f"{dying.grpc_url}: loaded version 2", dying.kill)
        with pytest.raises(NotRestored, match=rf"{dying.grpc_url}.* could not be brought back") as refused:
            rollout(shared, [*pods, dying], lines, timeout_s=10).release(2)
    assert refused.value.exit_code == 3
    assert served(*pods) == [[1], [1]]
    assert Repository(shared).serving(SPEC.name) == history


def test_slow_pod_costs_its_time_and_no_more(shared, pods):
    """Frozen before the release looks, then while it loads: it goes on when it may, and with what it served."""
    slow = pods[1]
    os.kill(slow.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(NotReleased, match=rf"{slow.grpc_url}.*DEADLINE_EXCEEDED") as refused:
            rollout(shared, pods, timeout_s=1.5).release(2)
        assert time.monotonic() - begun < 15
        assert type(refused.value) is NotReleased
    finally:
        os.kill(slow.pid, signal.SIGCONT)
    assert served(*pods) == [[1], [1]]

    lines = Lines(f"{slow.grpc_url}: rehearsed", lambda: os.kill(slow.pid, signal.SIGSTOP))
    done = rollout(shared, pods, lines, timeout_s=6)
    try:
        with pytest.raises(NotRestored, match=rf"{slow.grpc_url}.*DEADLINE_EXCEEDED.*could not be brought back"):
            done.release(2)
        assert served(pods[0]) == [[1]]
    finally:
        os.kill(slow.pid, signal.SIGCONT)
    # The order was withdrawn with the call.
    assert served(*pods) == [[1], [1]]
    assert Repository(shared).serving(SPEC.name).promoted == {"cpu": 1, "gpu": 1}


def test_pods_that_come_and_go_meanwhile_are_taken_as_they_are(shared, pods, cluster, service):
    """One is deleted; one starts while the alias moves, and has yet to fetch the version to its own disk."""
    early, late = (server.grpc_url for server in pods)

    def change(look: int) -> None:
        cluster.serve(
            {"early": early} | ({"deleted": "127.0.0.1:9"} if look == 0 else {"late": late} if look >= 3 else {}),
            starting={"late": late} if look in {1, 2} else {},
        )

    cluster.before = change
    home = Path(pods[1].options.repository) / SPEC.name
    (home / "2").rename(home / ".2")
    lines = Lines("late (", lambda: (home / ".2").rename(home / "2"))
    done = rollout(shared, service, lines)
    assert done.release(2) == {"cpu": 2, "gpu": 2}
    assert served(*pods) == [[2], [2]]
    assert [p.name for p in done.pods] == ["early", "late"]
    assert "deleted (127.0.0.1:9): is gone, and left out" in lines
    # The last one read the alias before it moved.
    moved = next(i for i, line in enumerate(lines) if "the alias" in line)
    waits = next(i for i, line in enumerate(lines) if line.startswith("late"))
    assert "waits for version 2 to be in its copy of the repository" in lines[waits]
    assert waits > moved


def test_pod_that_cannot_follow_the_alias_is_named_and_the_same_again_mends_it(shared, pods):
    lines = Lines("the alias of", lambda: os.kill(pods[1].pid, signal.SIGSTOP))
    done = rollout(shared, pods, lines, timeout_s=6)
    try:
        with pytest.raises(NotEverywhere, match=rf"at version 2 .*1 of 2 pods do not.*{pods[1].grpc_url}") as left:
            done.release(2)
    finally:
        os.kill(pods[1].pid, signal.SIGCONT)
    assert left.value.exit_code == 4
    assert served(pods[0]) == [[2]]
    events = Repository(shared).serving(SPEC.name).events
    assert rollout(shared, pods).release(None) == {"cpu": 2, "gpu": 2}
    assert served(*pods) == [[2], [2]]
    assert Repository(shared).serving(SPEC.name).events == events


def command(folder: Path, pods, tmp_path: Path, *more: str) -> list[str]:
    key = tmp_path / "key"
    key.write_text(KEY)
    key.chmod(0o600)
    where = ["--repository", str(folder), "--pods", ",".join(s.grpc_url for s in pods), "--admin-key-file", str(key)]
    return ["release", SPEC.name, *more, *where]


def test_command_says_what_became_of_each_pod(shared, pods, tmp_path, capsys):
    assert serve([*command(shared, pods, tmp_path, "2"), "--output", "json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["versions"] == {"cpu": 2, "gpu": 2}
    assert (document["exit_code"], document["reason"], document["alias_moved"]) == (0, None, True)
    assert [p["address"] for p in document["pods"]] == [s.grpc_url for s in pods]
    assert f"{pods[0].grpc_url}: rehearsed version 2 in" in err
    assert serve(command(shared, pods, tmp_path, "--rollback")) == 0
    assert capsys.readouterr().out == "mel_features: cpu serves version 1\nmel_features: gpu serves version 1\n"
    assert serve([*command(shared, pods, tmp_path, "7"), "--output", "json"]) == 1
    out, err = capsys.readouterr()
    assert "error: mel_features/7 is not published" in err
    assert json.loads(out)["reason"].endswith("nothing was changed")
    assert serve([*command(shared, pods, tmp_path, "2"), "--output", "json", "--target", "gpu"]) == 1
    out, _ = capsys.readouterr()
    assert "serves the cpu configuration" in json.loads(out)["pods"][0]["problem"]
    assert served(*pods) == [[1], [1]]


def test_command_that_is_told_to_end_brings_everything_back(shared, pods, tmp_path):
    """It ends while one pod has loaded and the other has not."""
    quick, slow = pods
    program = [sys.executable, "-m", "rfserve.server.cli", *command(shared, pods, tmp_path, "2")]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if f"{slow.grpc_url}: rehearsed" in line:
                    os.kill(slow.pid, signal.SIGSTOP)
                if f"{quick.grpc_url}: loaded" in line:
                    process.send_signal(signal.SIGTERM)
                    time.sleep(0.5)
                    os.kill(slow.pid, signal.SIGCONT)
        finally:
            os.kill(slow.pid, signal.SIGCONT)
        assert process.wait(60) == 1, said
    assert "was not released: interrupted; the alias did not move" in said[-2], said
    assert served(*pods) == [[1], [1]]
    assert Repository(shared).serving(SPEC.name).promoted == {"cpu": 1, "gpu": 1}


NETWORK = GRAPHS["heimdall_net"]


def test_shadow_tells_in_metres_how_far_fixes_move(repository, tmp_path, capsys):
    """On requests that are given, through a pod, where no client meets the version; and a release within a limit."""
    own = Repository(tmp_path / "repository")
    shutil.copytree(repository / NETWORK.name, own.folder / NETWORK.name)
    again(own, NETWORK, altered)
    release.promote(own, NETWORK, 1)
    with started(own.folder) as server:
        key = tmp_path / "key"
        key.write_text(KEY)
        where = ["--repository", str(own.folder), "--pods", server.grpc_url, "--admin-key-file", str(key)]
        assert serve(["release", NETWORK.name, "2", "--shadow", *where]) == 0
        out, err = capsys.readouterr()
        assert "version 1 (fp32" in out
        assert "position  p50" in out
        worst = float(out.split("worst ")[1].split(" m")[0])
        assert worst > 0.01
        assert f"fixes move by up to {worst:.2f} m" in err
        limit = ["--shift-limit-m", str(worst / 2), "--output", "json"]
        assert serve(["release", NETWORK.name, "2", *limit, *where]) == 1
        document = json.loads(capsys.readouterr().out)
        assert f"fixes move by up to {worst:.2f} m, allowed" in document["reason"]
        assert document["pods"][0]["shift_m"]["worst"] == pytest.approx(worst, abs=0.01)
        assert serve(["release", NETWORK.name, "2", "--no-rehearsal", *limit[:2], *where]) == 1
        assert "fixes are compared in the rehearsal, and there is none" in capsys.readouterr().err
        with LiveServer(server.grpc_url, 30, KEY) as live:
            assert live.served_versions(NETWORK.name) == [1]
            assert live.ready_models() == [NETWORK.name]
