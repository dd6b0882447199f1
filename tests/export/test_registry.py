"""What is published can be registered in MLflow: embedded in a folder, or on a real tracking server."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import BriefServer

from rfserve.export import onnx_file
from rfserve.export.cli import main
from rfserve.export.errors import RegistryError
from rfserve.export.manifest import Manifest, file_facts
from rfserve.export.registry import CANDIDATE, CHAMPION, Registry
from rfserve.export.repository import Repository, version_files
from rfserve.export.spec import example, find
from rfserve.export.tracking import Tracking
from rfserve.server.options import ServerOptions
from rfserve.server.security import Security

MODEL = "mel_features"
SPEC = find(MODEL)


@pytest.fixture
def repository(small_model: Path, tmp_path: Path) -> Repository:
    return Repository(Path(shutil.copytree(small_model, tmp_path / "repository")))


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """An MLflow database without content: making its tables takes seconds."""
    folder: Path = tmp_path_factory.mktemp("empty")
    assert Registry(str(folder)).version_of(MODEL, CANDIDATE) is None
    return folder


@pytest.fixture
def registry(empty: Path, tmp_path: Path) -> Registry:
    return Registry(str(shutil.copytree(empty, tmp_path / "mlruns")))


def publish_again(repository: Repository) -> Manifest:
    """One more version, without tracing the same graph anew."""
    first = repository.manifest(MODEL, 1)

    def fill(folder: Path) -> Callable[[int], Manifest]:
        shutil.copy(repository.folder / MODEL / "1" / "model.onnx", folder)
        files = version_files(folder)
        return lambda number: dataclasses.replace(first, version=number, files=files)

    return repository.publish(SPEC, fill)


def downloaded(registry: Registry, alias: str, folder: Path) -> Path:
    """What `models:/…@alias` gives, for this registry alone."""
    import mlflow

    found = registry.tracking.client.get_model_version_by_alias(MODEL, alias)
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=registry.tracking.client.get_model_version_download_uri(MODEL, found.version),
            dst_path=str(folder),
            tracking_uri=registry.tracking.uri,
        )
    )


def runs(registry: Registry) -> list[Any]:
    client = registry.tracking.client
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def test_registered_version_holds_the_exact_files_and_the_figures(repository, registry, tmp_path: Path):
    manifest = repository.manifest(MODEL, 1)
    registered = registry.register(repository, manifest)
    assert registered.is_new
    assert registry.version_of(MODEL, CANDIDATE) == 1
    assert registry.version_of(MODEL, CHAMPION) is None

    folder = downloaded(registry, CANDIDATE, tmp_path)
    assert {n: file_facts(folder / n) for n in manifest.files} == manifest.files
    published = repository.folder / MODEL / "1" / "manifest.json"
    assert (folder / "manifest.json").read_bytes() == published.read_bytes()

    client = registry.tracking.client
    run = client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    metrics = run.data.metrics
    assert metrics["parity.cases"] == manifest.parity["cases"]
    assert metrics["parity.worst.mel_spectrogram"] == manifest.parity["worst"]["mel_spectrogram"]
    assert metrics["size_bytes"] == published.with_name("model.onnx").stat().st_size
    assert 0 < metrics["latency.onnxruntime_cpu.p50_ms"] <= metrics["latency.onnxruntime_cpu.p90_ms"]
    assert run.data.params["tools.onnx"] == manifest.tools["onnx"]
    assert run.data.params["precision"] == "fp32"
    assert run.data.tags["rfserve.repository"] == str(repository.folder.resolve())
    version = client.get_model_version(MODEL, registered.registry_version)
    assert version.tags["rfserve.version"] == "1"
    assert version.tags["rfserve.manifest_sha256"] == file_facts(published)["sha256"]
    files = {a.path for a in client.list_artifacts(run.info.run_id, f"repository/{MODEL}")}
    assert files == {f"repository/{MODEL}/{n}" for n in ("1", "config.pbtxt", "configs")}


def test_mlflow_runs_the_registered_model_by_its_signature(repository, registry, tmp_path: Path):
    import mlflow

    registry.register(repository, repository.manifest(MODEL, 1))
    folder = downloaded(registry, CANDIDATE, tmp_path)
    model = mlflow.pyfunc.load_model(str(folder))
    assert json.loads(model.metadata.signature.to_dict()["inputs"]) == [
        {"name": "raw_iq", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, -1]}}
    ]
    assert [(o.name, o.shape) for o in model.metadata.signature.outputs] == [("mel_spectrogram", (-1, 3, 128, 32))]
    inputs = example(SPEC, batch=2)
    expected = onnx_file.run_session(onnx_file.open_session(folder / "model.onnx"), inputs)
    np.testing.assert_array_equal(model.predict(inputs)["mel_spectrogram"], expected["mel_spectrogram"])
    tools = repository.manifest(MODEL, 1).tools
    assert set((folder / "requirements.txt").read_text().split()) >= {f"{t}=={tools[t]}" for t in ("onnx", "numpy")}


@pytest.mark.parametrize("name", ["heimdall_net", "localization_net", "iq_features", "locate_pro"])
def test_signature_is_what_the_spec_declares(name: str):
    from rfserve.export.mlflow_model import signature

    spec, found = find(name), signature(find(name))
    for declared, schema in ((spec.inputs, found.inputs), (spec.outputs, found.outputs)):
        assert [(t.name, t.dtype.numpy, (-1, *t.dims)) for t in declared] == [
            (c.name, c.type, c.shape) for c in schema.inputs
        ]


def test_version_is_registered_once(repository, registry):
    manifest = repository.manifest(MODEL, 1)
    first = registry.register(repository, manifest)
    second = Registry(str(repository.folder.parent / "mlruns")).register(repository, manifest)
    assert not second.is_new
    assert (second.registry_version, second.run_id) == (first.registry_version, first.run_id)
    assert len(runs(registry)) == 1


def test_candidate_is_the_newest_whatever_is_registered_again(repository, registry):
    registry.register(repository, repository.manifest(MODEL, 1))
    registry.register(repository, publish_again(repository))
    assert registry.version_of(MODEL, CANDIDATE) == 2
    registry.register(repository, repository.manifest(MODEL, 1))
    assert registry.version_of(MODEL, CANDIDATE) == 2


def test_changed_files_are_not_registered(repository, registry):
    file = repository.folder / MODEL / "1" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(RegistryError, match=r"mel_features/1 is not as it was published: model\.onnx changed"):
        registry.register(repository, repository.manifest(MODEL, 1))
    assert runs(registry) == []
    assert registry.version_of(MODEL, CANDIDATE) is None


def test_registration_that_failed_half_way_can_be_repeated(repository, registry, tmp_path: Path):
    # A file stands where the artefacts belong.
    (tmp_path / "mlruns" / "artifacts").write_text("")
    manifest = repository.manifest(MODEL, 1)
    with pytest.raises(RegistryError, match=r"mel_features/1 is not registered: MLflow at .* failed with"):
        registry.register(repository, manifest)
    assert [r.info.status for r in runs(registry)] == ["FAILED"]
    assert registry.version_of(MODEL, CANDIDATE) is None
    (tmp_path / "mlruns" / "artifacts").unlink()
    assert registry.register(repository, manifest).is_new
    assert registry.version_of(MODEL, CANDIDATE) == 1


def test_ensemble_is_registered_with_its_manifest_alone(repository, registry, tmp_path: Path):
    ensemble = find("locate_spectrogram")
    manifest = repository.publish(
        ensemble,
        lambda _: lambda number: Manifest(model=ensemble.name, version=number, weights="of its steps", steps=(MODEL,)),
    )
    registered = registry.register(repository, manifest)
    run = registry.tracking.client.get_run(registered.run_id)
    assert run.data.params["steps"] == MODEL
    assert "latency.onnxruntime_cpu.p50_ms" not in run.data.metrics


def test_active_run_and_tracking_uri_of_the_process_stay(repository, registry, empty: Path, tmp_path: Path):
    import mlflow

    own = f"sqlite:///{shutil.copytree(empty, tmp_path / 'own') / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(own)
    try:
        experiment = mlflow.create_experiment("training", artifact_location=(tmp_path / "own" / "a").as_uri())
        with mlflow.start_run(experiment_id=experiment) as run:
            registry.register(repository, repository.manifest(MODEL, 1))
            assert mlflow.active_run().info.run_id == run.info.run_id
            assert mlflow.get_tracking_uri() == own
        assert mlflow.get_run(run.info.run_id).data.metrics == {}
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_champion_needs_a_registered_version(repository, registry):
    with pytest.raises(
        RegistryError, match=r"mel_features/1 is not registered in .*`rfserve-export register mel_features 1`"
    ):
        registry.champion(MODEL, 1)
    registry.register(repository, repository.manifest(MODEL, 1))
    publish_again(repository)
    with pytest.raises(RegistryError, match="mel_features/2 is not registered"):
        registry.champion(MODEL, 2, repository=repository)
    assert registry.version_of(MODEL, CHAMPION) is None


def test_champion_of_two_repositories_is_the_one_that_is_named(repository, registry, small_model: Path, tmp_path: Path):
    other = Repository(tmp_path / "other")
    other.publish(
        SPEC,
        lambda folder: (
            shutil.copy(small_model / MODEL / "1" / "model.onnx", folder)
            and (lambda number: Manifest(model=MODEL, version=number, weights="none", files=version_files(folder)))
        ),
    )
    first = registry.register(repository, repository.manifest(MODEL, 1))
    second = registry.register(other, other.manifest(MODEL, 1))
    assert first.registry_version != second.registry_version
    with pytest.raises(RegistryError, match=r"registered 2 times .*other"):
        registry.champion(MODEL, 1)
    assert registry.champion(MODEL, 1, repository=repository).registry_version == first.registry_version
    assert registry.tracking.client.get_model_version_by_alias(MODEL, CHAMPION).version == int(first.registry_version)


def test_alias_on_a_foreign_version_is_named(registry):
    client = registry.tracking.client
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, "file:///nowhere")
    client.set_registered_model_alias(MODEL, CHAMPION, "1")
    with pytest.raises(RegistryError, match="MLflow's version 1, which rfserve did not register"):
        registry.version_of(MODEL, CHAMPION)


@pytest.mark.server
def test_champion_moves_after_a_serving_triton_has_passed_the_checks(repository, registry, tmp_path: Path, capsys):
    folder = str(Path(registry.tracking.uri.removeprefix("sqlite:///")).parent)
    elsewhere = Path(shutil.copytree(repository.folder, tmp_path / "elsewhere"))

    def command(*arguments: object) -> int:
        where = ["--repository", str(repository.folder), "--tracking-uri", folder, "--champion"]
        return main([str(a) for a in arguments] + where)

    desk = {"grpc_port": 0, "http_port": 0, "metrics_port": 0, "security": Security(open_admin=True)}
    options = ServerOptions(repository=repository.folder, **desk)
    with BriefServer(options) as server, BriefServer(ServerOptions(repository=elsewhere, **desk)) as foreign:
        assert command("promote", MODEL, 1, "--url", server.grpc_url) == 1
        assert "is not registered" in capsys.readouterr().err
        assert repository.serving(MODEL).promoted == {}
        registry.register(repository, repository.manifest(MODEL, 1))
        assert command("promote", MODEL, 1) == 1
        assert "got --champion without --url" in capsys.readouterr().err
        assert command("promote", MODEL, 1, "--url", server.grpc_url) == 0
        assert registry.version_of(MODEL, CHAMPION) == 1
        registry.register(repository, publish_again(repository))
        # A server that cannot serve the second version: neither it nor the alias moves.
        assert command("promote", MODEL, 2, "--url", foreign.grpc_url, "--timeout-s", 5) == 1
        assert registry.version_of(MODEL, CHAMPION) == 1
        assert registry.version_of(MODEL, CANDIDATE) == 2
        assert command("promote", MODEL, 2, "--url", server.grpc_url) == 0
        assert registry.version_of(MODEL, CHAMPION) == 2
        assert command("rollback", MODEL, "--url", server.grpc_url) == 0
        assert registry.version_of(MODEL, CHAMPION) == 1


def test_server_that_is_away_is_named_within_the_time_out():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://someone:secret@127.0.0.1:{free.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(RegistryError, match=r"no tracking server answers at http://127\.0\.0\.1") as caught:
            Registry(url, timeout_s=1).version_of(MODEL, CHAMPION)
        assert "secret" not in str(caught.value)
        free.listen()
        with pytest.raises(RegistryError, match=r"within 1 s: .*timed out; start it, or give another --tracking-uri"):
            Registry(url, timeout_s=1).version_of(MODEL, CHAMPION)
    assert time.monotonic() - begun < 30


def test_mlflow_that_is_missing_is_named_before_anything_is_exported(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["write", MODEL, "--register", "--repository", str(tmp_path / "repository")]) == 1
    assert "MLflow is not installed; pip install 'rfserve[registry]'" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()


def test_address_is_the_options_then_the_environments_then_a_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracking(timeout_s=1).uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert Tracking(timeout_s=1).artifact_location(MODEL) == (tmp_path / "mlruns" / "artifacts" / MODEL).as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert Tracking(timeout_s=1).uri == "http://tracking:5000"
    assert Tracking(timeout_s=1).artifact_location(MODEL) is None
    assert Tracking("here", timeout_s=1).uri == f"sqlite:///{tmp_path}/here/mlflow.db"
    assert Tracking("databricks", timeout_s=1).uri == "databricks"
    assert list(tmp_path.iterdir()) == []


def test_write_without_register_does_not_import_mlflow(tmp_path: Path):
    program = (
        "import sys; from rfserve.export.cli import main; "
        f"code = main(['write', {MODEL!r}, '--repository', {str(tmp_path)!r}]); "
        "sys.exit(code or 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / MODEL / "1" / "model.onnx").is_file()


def test_failed_registration_leaves_the_published_version_and_register_finishes_it(
    small_model: Path, empty: Path, tmp_path: Path, capsys
):
    tracking = shutil.copytree(empty, tmp_path / "mlruns")
    (tracking / "artifacts").write_text("")
    options = ["--repository", str(tmp_path / "repository"), "--tracking-uri", str(tracking)]
    assert main(["write", MODEL, "--register", *options]) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'repository'}/{MODEL}/1\n"
    assert "mel_features/1 is published but not registered" in err
    assert "finish it with `rfserve-export register mel_features 1`" in err
    assert main(["check", MODEL, "--repository", str(tmp_path / "repository")]) == 0
    (tracking / "artifacts").unlink()
    capsys.readouterr()
    assert main(["register", MODEL, "1", *options]) == 0
    assert capsys.readouterr().out == f"models:/{MODEL}/1\n"
    assert main(["register", MODEL, "2", *options]) == 1
    assert "mel_features/2" in capsys.readouterr().err


def test_tracking_uri_without_register_is_refused(tmp_path: Path, capsys):
    assert main(["write", MODEL, "--tracking-uri", "here", "--repository", str(tmp_path / "repository")]) == 1
    assert "without --register" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tracking_server(empty: Path, tmp_path: Path):
    """A real `mlflow server` on loopback; its address."""
    shutil.copytree(empty, tmp_path / "server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server' / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "server" / "artifacts")]
    # Its job runner is five processes more, and has nothing to do here.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_version_is_registered_on_a_tracking_server(repository, tracking_server: str, tmp_path: Path, capsys):
    options = ["--repository", str(repository.folder), "--tracking-uri", tracking_server]
    assert main(["register", MODEL, "1", *options]) == 0
    assert capsys.readouterr().out == f"models:/{MODEL}/1\n"
    registry = Registry(tracking_server)
    assert not registry.register(repository, repository.manifest(MODEL, 1)).is_new
    registry.champion(MODEL, 1, repository=repository)
    assert registry.version_of(MODEL, CHAMPION) == 1
    folder = downloaded(registry, CHAMPION, tmp_path)
    manifest = repository.manifest(MODEL, 1)
    assert {n: file_facts(folder / n) for n in manifest.files} == manifest.files
