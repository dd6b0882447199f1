"""A repository with every model, a real tritonserver that serves it, and a real S3 server."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from served import BriefServer

from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import MODELS, find
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings."""
    folder = os.environ.get("RFSERVE_RECORDINGS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RFSERVE_RECORDINGS names no folder of recordings")
    return Path(folder)


@pytest.fixture(scope="session")
def tracked() -> list[str]:
    """The files that git has, by path below the top; skips outside of a checkout, and without git."""
    top = Path(__file__).parents[1]
    if shutil.which("git") is None or not (top / ".git").exists():
        pytest.skip("this is no git checkout, or git is not installed")
    return subprocess.run(["git", "ls-files"], cwd=top, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Iterator[Callable[[str, Callable[[Path], None]], Path]]:
    """Makes a folder that is only read from then on, by every process that runs a part of these tests.

    With RFSERVE_EXPORTS it lies there, and later runs find it. A test that changed one is an error at the end.
    """
    shared: Path = tmp_path_factory.getbasetemp()
    if "RFSERVE_EXPORTS" in os.environ:
        shared = Path(os.environ["RFSERVE_EXPORTS"]).resolve()
        shared.mkdir(parents=True, exist_ok=True)
    elif "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    found: dict[Path, dict[Path, tuple[int, int]]] = {}

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with (shared / f".{name}.lock").open("w") as lock:
            # Whoever comes second waits; one that failed, or was killed, leaves its part to the next.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                part = shared / f".{name}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                make(part)
                part.rename(folder)
        found.setdefault(folder, _state(folder))
        return folder

    yield made
    for folder, before in found.items():
        now = _state(folder)
        changed = [str(f) for f in before.keys() | now.keys() if before.get(f) != now.get(f)]
        if changed:
            # Or later runs would take it for what was made.
            shutil.rmtree(folder, ignore_errors=True)
        assert not changed, f"a test changed what all share; have it copy {folder.name}: {sorted(changed)}"


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of each file; locks come and go."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != ".lock"]
    return {f: (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


@pytest.fixture(scope="session")
def small_model(made_once) -> Path:
    """A repository of `mel_features`, the model that is exported and loaded the fastest."""

    def make(folder: Path) -> None:
        publish(find("mel_features"), Repository(folder), Source(), version=None, report=lambda _: None)

    return made_once("small_model", make)


@pytest.fixture(scope="session")
def repository(made_once, small_model: Path) -> Path:
    """Every served model with untrained weights; LocalizationNet in its smallest size."""

    def make(folder: Path) -> None:
        shutil.copytree(small_model, folder, dirs_exist_ok=True)
        for name, spec in MODELS.items():
            source = Source(variant="tiny") if name == "localization_net" else Source()
            if not (folder / name).exists():
                publish(spec, Repository(folder), source, version=None, report=lambda _: None)

    return made_once("model_repository", make)


@pytest.fixture(scope="session")
def serving_all(repository: Path) -> Iterator[Callable[[], TritonServer]]:
    """The running server, with its administrative APIs open; a new one where that has ended, or hangs.

    Triton's Python backend ends itself when one of its processes was held up for a second at the wrong moment, and
    what Triton writes before it ends can wait for a lock for ever.
    """
    security = Security(open_admin=True)
    options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0, security=security)
    started: list[TritonServer] = []
    with ExitStack() as running:

        def current() -> TritonServer:
            if not started or started[-1].wait(0.1) is not None or not started[-1].http.server_live():
                started.append(running.enter_context(BriefServer(options)))
            return started[-1]

        yield current


@pytest.fixture
def server(serving_all: Callable[[], TritonServer]) -> TritonServer:
    """A server of every model, which other tests use as well."""
    return serving_all()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[str]:
    """The address of a running S3 server on loopback."""
    log: Path = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield found[1]
        finally:
            process.kill()


@pytest.fixture
def s3_endpoint(s3_server: str, monkeypatch) -> str:
    """Its address, with credentials in the environment and nothing from this machine's own configuration."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    return s3_server
