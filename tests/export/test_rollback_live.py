"""Promotion and rollback on a real server under load, and what happens when the server does not take a version."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import BriefServer
from ungated import publish_ungated

from rfserve.export import local_model, release
from rfserve.export.cli import main
from rfserve.export.elements import compare
from rfserve.export.errors import LiveServerError, ReleaseError
from rfserve.export.live import LiveServer
from rfserve.export.local_model import LocalModel
from rfserve.export.publication import Source, build_network, publish
from rfserve.export.repository import Repository
from rfserve.export.scaling import Scaling, network_units
from rfserve.export.spec import ENSEMBLES, GRAPHS, example
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security

pytestmark = pytest.mark.server

NETWORK, FRONT, ENSEMBLE = GRAPHS["heimdall_net"], GRAPHS["iq_features"], ENSEMBLES["locate"]
KEY = "only-for-the-administrator"
ROLLBACK_LIMIT_S = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two versions of a network with different weights, version 1 promoted; a front end, and their ensemble."""
    folder: Path = tmp_path_factory.mktemp("model_repository")
    repository = Repository(folder)
    for spec, seed in ((FRONT, 0), (NETWORK, 1), (NETWORK, 2)):
        publish_ungated(repository, spec, build_network(spec, Source(seed=seed)))
    publish(ENSEMBLE, repository, Source(), version=None, report=lambda _: None)
    release.promote(repository, NETWORK, 1)
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[TritonServer]:
    security = Security(admin_key=KEY)
    options = ServerOptions(repository=folder, grpc_port=0, http_port=0, metrics_port=0, security=security)
    with BriefServer(options) as server:
        yield server


@pytest.fixture
def live(running: TritonServer) -> Iterator[LiveServer]:
    with LiveServer(running.grpc_url, 30, KEY) as server:
        yield server


class Caller(threading.Thread):
    """Asks a model without pause and without naming a version, and keeps what it was answered."""

    def __init__(self, url: str, spec, inputs: dict) -> None:
        super().__init__()
        self._url, self._spec, self._inputs = url, spec, inputs
        self.stop = threading.Event()
        self.failures: list[str] = []
        self.answers: list[tuple[float, int, dict]] = []

    def run(self) -> None:
        with LiveServer(self._url, 30) as server:
            while not self.stop.is_set():
                try:
                    outputs, version = server.infer(self._spec.name, self._inputs)
                    self.answers.append((time.monotonic(), version, outputs))
                except LiveServerError as error:
                    self.failures.append(str(error))


@pytest.fixture(scope="module")
def expected(folder: Path):
    """What each version answers, for the network and through the ensemble."""
    repository = Repository(folder)
    front = LocalModel(repository, FRONT, 1)
    found = {}
    for version in (1, 2):
        network = LocalModel(repository, NETWORK, version)

        def run(model, arrays, network=network):
            return (front if model.name == FRONT.name else network).run(arrays)

        found[NETWORK.name, version] = network.run(example(NETWORK))
        found[ENSEMBLE.name, version] = local_model.ensemble_outputs(ENSEMBLE, example(ENSEMBLE), run)
    return found


def agrees(folder: Path, got: dict, wanted: dict, *, slack: float = 1) -> bool:
    units = network_units(NETWORK, Scaling.from_dict(Repository(folder).manifest(NETWORK.name, 1).scaling or {}))
    return not any(
        compare(got[t.name], wanted[t.name], slack * NETWORK.tolerance * units[t.name])[2] for t in NETWORK.outputs
    )


@pytest.mark.alone
def test_promotion_and_rollback_under_load_fail_no_request(folder, running, live, expected):
    repository = Repository(folder)
    callers = [Caller(running.grpc_url, spec, example(spec)) for spec in (NETWORK, ENSEMBLE)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(0.5)
        promoted = release.promote(repository, NETWORK, 2, servers=[live])
        between = time.monotonic()
        time.sleep(0.5)
        begun = time.monotonic()
        rolled_back = release.rollback(repository, NETWORK, servers=[live])
        ended = time.monotonic()
        time.sleep(0.5)
    finally:
        for caller in callers:
            caller.stop.set()
        for caller in callers:
            caller.join(60)
    counts = {c._spec.name: len(c.answers) for c in callers}
    print(
        f"\npromotion {promoted.total_s:.2f} s, rollback {rolled_back.total_s:.2f} s, answers {counts}, "
        f"failures {[len(c.failures) for c in callers]}, longest gap "
        f"{max(b - a for c in callers for (a, *_), (b, *_) in itertools.pairwise(c.answers)):.2f} s"
    )
    assert [c.failures for c in callers] == [[], []]
    assert min(counts.values()) > 20
    assert rolled_back.versions == {"cpu": 1, "gpu": 1}
    assert ended - begun < ROLLBACK_LIMIT_S

    network, ensemble = (c.answers for c in callers)
    # Every answer is that of the version it names; the ensemble names its own, and is one of the two.
    assert all(agrees(folder, outputs, expected[NETWORK.name, version]) for _, version, outputs in network)
    by_ensemble = [
        [v for v in (1, 2) if agrees(folder, outputs, expected[ENSEMBLE.name, v], slack=10)]
        for _, _, outputs in ensemble
    ]
    assert all(len(versions) == 1 for versions in by_ensemble)
    assert {v for _, v, _ in network} == {1, 2} == {v for versions in by_ensemble for v in versions}
    # What was asked after the promotion had ended is version 2's, and after the rollback version 1's.
    margin_s = 0.4
    assert {v for at, v, _ in network if between + margin_s < at < begun} <= {2}
    assert [v for _, v, _ in network][-1] == by_ensemble[-1][0] == 1
    assert live.served_versions(NETWORK.name) == [1]
    assert repository.serving(NETWORK.name).promoted == {"cpu": 1, "gpu": 1}
    assert repository.serving(NETWORK.name).events[-1].action == "rollback"


def test_server_answers_as_the_version_does_alone_and_in_the_ensemble(folder, live):
    repository = Repository(folder)
    for spec in (NETWORK, ENSEMBLE, FRONT):
        checked = release.checked_on(live, repository, spec, 1)
        assert (checked.requests, checked.rows) == (3, 5)
        assert checked.worst_ratio <= 1


def test_server_that_runs_from_another_repository_is_found_out(live, tmp_path):
    """The same version number, but not the same weights."""
    other = Repository(tmp_path)
    publish_ungated(other, NETWORK, build_network(NETWORK, Source(seed=3)))
    history = other.serving(NETWORK.name)
    with pytest.raises(ReleaseError, match=r"heimdall_net/1 answers positions that differ by .*serve this repository"):
        release.promote(other, NETWORK, 1, servers=[live])
    assert other.serving(NETWORK.name) == history


class DeafServer(LiveServer):
    """A server that is lost after it was asked what it serves."""

    def load(self, model: str) -> None:
        raise LiveServerError(f"{self.url}: cannot load {model}: UNAVAILABLE")


def test_rollback_goes_on_where_one_server_fails(folder, live):
    repository = Repository(folder)
    release.promote(repository, NETWORK, 2, servers=[live])
    with (
        DeafServer(live.url, 30, KEY) as deaf,
        pytest.raises(ReleaseError, match=r"rolled back to version 1 for cpu, version 1 for gpu in .* not on 1 of 2"),
    ):
        release.rollback(repository, NETWORK, servers=[deaf, live])
    assert live.served_versions(NETWORK.name) == [1]
    assert repository.serving(NETWORK.name).promoted == {"cpu": 1, "gpu": 1}


def test_promotion_is_undone_on_the_servers_that_took_it(folder, live):
    repository = Repository(folder)
    history = repository.serving(NETWORK.name)
    with (
        DeafServer(live.url, 30, KEY) as deaf,
        pytest.raises(ReleaseError, match=r"not promoted: .*UNAVAILABLE.*; but"),
    ):
        release.promote(repository, NETWORK, 2, servers=[live, deaf])
    assert live.served_versions(NETWORK.name) == [1]
    assert repository.serving(NETWORK.name) == history


@pytest.fixture
def corrupt(folder: Path) -> Iterator[int]:
    """A third version for a test to break."""
    repository = Repository(folder)
    version = publish_ungated(repository, NETWORK, build_network(NETWORK, Source(seed=3)))
    yield version
    repository.retire(NETWORK, version)


def test_version_that_a_server_refuses_is_not_promoted(folder, live, corrupt, monkeypatch, expected):
    repository = Repository(folder)
    graph = folder / NETWORK.name / str(corrupt) / "model.onnx"
    whole = graph.read_bytes()
    load = LiveServer.load
    configuration = repository.read_configuration(NETWORK)
    history = repository.serving(NETWORK.name)

    def break_and_load(self: LiveServer, model: str) -> None:
        # Between the verification and the load: a volume that lost a block.
        graph.write_bytes(whole[: len(whole) // 2])
        load(self, model)

    callers = [Caller(live.url, spec, example(spec)) for spec in (NETWORK, ENSEMBLE)]
    for caller in callers:
        caller.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(LiveServer, "load", break_and_load)
            with pytest.raises(ReleaseError) as refused:
                release.promote(repository, NETWORK, corrupt, servers=[live])
        time.sleep(0.3)
    finally:
        for caller in callers:
            caller.stop.set()
        for caller in callers:
            caller.join(60)
        graph.write_bytes(whole)
    said = str(refused.value)
    assert f"heimdall_net/{corrupt} was not promoted" in said
    assert "model.onnx" in said
    assert said.endswith("what was served before is served again")
    assert repository.serving(NETWORK.name) == history
    assert repository.read_configuration(NETWORK) == configuration
    assert live.served_versions(NETWORK.name) == [1]
    assert live.is_ready(ENSEMBLE.name)
    assert [c.failures for c in callers] == [[], []]
    assert {v for _, v, _ in callers[0].answers} == {1}
    assert agrees(folder, callers[0].answers[-1][2], expected[NETWORK.name, 1])


def test_version_that_is_damaged_is_refused_before_anything_changes(folder, corrupt):
    repository = Repository(folder)
    graph = folder / NETWORK.name / str(corrupt) / "model.onnx"
    whole = graph.read_bytes()
    configuration = repository.read_configuration(NETWORK)
    graph.write_bytes(whole[:-1])
    try:
        with pytest.raises(ReleaseError, match=r"not fit to be served: model\.onnx changed.*nothing was changed"):
            release.promote(repository, NETWORK, corrupt)
    finally:
        graph.write_bytes(whole)
    assert repository.read_configuration(NETWORK) == configuration


def test_server_that_is_away_leaves_everything_as_it_was(folder, live):
    repository = Repository(folder)
    history = repository.serving(NETWORK.name)
    with LiveServer("127.0.0.1:9", 1) as away:
        with pytest.raises(LiveServerError, match=r"127\.0\.0\.1:9: cannot .*UNAVAILABLE.*is it running"):
            release.promote(repository, NETWORK, 2, servers=[live, away])
        with pytest.raises(LiveServerError, match="is it running"):
            release.rollback(repository, NETWORK, servers=[away])
    assert repository.serving(NETWORK.name) == history
    assert live.served_versions(NETWORK.name) == [1]


def test_target_that_the_server_does_not_run_is_refused(folder, live):
    with pytest.raises(ReleaseError, match=r"serves the cpu configuration of heimdall_net.*nothing was changed"):
        release.promote(Repository(folder), NETWORK, 2, targets=["gpu"], servers=[live])


def test_command_promotes_and_rolls_back_with_the_administrators_key(folder, running, live, tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    where = ["--repository", str(folder), "--url", running.grpc_url]
    assert main(["promote", "heimdall_net", "2", *where]) == 1
    assert "protocol is restricted" in (said := capsys.readouterr().err)
    assert "--admin-key-file" in said
    assert live.served_versions(NETWORK.name) == [1]
    assert main(["promote", "heimdall_net", "2", *where, "--admin-key-file", str(key)]) == 0
    out, err = capsys.readouterr()
    assert out == "heimdall_net: cpu serves version 2\nheimdall_net: gpu serves version 2\n"
    assert f"{running.grpc_url}: loaded and checked in" in err
    assert live.served_versions(NETWORK.name) == [2]
    assert main(["rollback", "heimdall_net", *where, "--admin-key-file", str(key)]) == 0
    assert "cpu serves version 1" in capsys.readouterr().out
    assert live.served_versions(NETWORK.name) == [1]


def test_versions_and_answers_are_named(live):
    assert live.is_ready(NETWORK.name, 1)
    assert not live.is_ready(NETWORK.name, 2)
    assert live.target(NETWORK.name) == "cpu"
    assert live.target(ENSEMBLE.name) is None
    assert live.served_versions("localization_net") == []
    with pytest.raises(LiveServerError, match="cannot load no_such_model"):
        live.load("no_such_model")
    with pytest.raises(LiveServerError, match="see the server's log"):
        live.infer(NETWORK.name, example(NETWORK), version=77)
