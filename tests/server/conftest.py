"""Certificates as an authority signs them, repositories to serve and to spoil, busy callers, and the server itself."""

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.utils import InferenceServerException

from rfserve.clients.connection import to_wire
from rfserve.export.spec import MODELS, example
from rfserve.export.spec.queueing import Priority

DAY = timedelta(days=1)
# An address of this machine; certificates name it, and no other.
NAMED = "127.0.0.2"


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and writes them as PEM files into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._sign(name, self._key, timedelta(0), 365 * DAY, authority=True)))

    def issue(
        self, name: str, *, begins: timedelta = -DAY, ends: timedelta = 90 * DAY, password: str = "", key: Any = None
    ) -> Pair:
        key = key or ec.generate_private_key(ec.SECP256R1())
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(_pem(self._sign(name, key, begins, ends)))
        locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        pair.key.write_bytes(key.private_bytes(encoding, form, locked))
        pair.key.chmod(0o600)
        return pair

    def _sign(self, name: str, key, begins: timedelta, ends: timedelta, *, authority: bool = False):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now + begins, now + ends - DAY))
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(NAMED))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="session")
def stranger(folder: Path) -> Authority:
    return Authority(folder, "stranger")


@pytest.fixture(scope="session")
def server_pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(scope="session")
def client_pair(authority: Authority) -> Pair:
    return authority.issue("client")


FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


@pytest.fixture
def part_of(repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a repository of copies of the named models."""

    def made(*models: str) -> Path:
        for model in models:
            shutil.copytree(repository / model, tmp_path / "part" / model)
        return tmp_path / "part"

    return made


class Caller(threading.Thread):
    """Asks a model without pause, batch after batch; keeps when each answer and each failure came, in seconds."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        batch: int = 1,
        timeout_s: float = 30.0,
        times: int = 10**9,
        priority: Priority = Priority.BULK,
    ) -> None:
        super().__init__(daemon=True)
        self._priority = priority
        self._url, self._model, self._batch, self._timeout_s, self._times = url, model, batch, timeout_s, times
        self.stop = threading.Event()
        self.answers: list[float] = []
        self.failures: list[tuple[float, str]] = []

    def run(self) -> None:
        inputs, outputs = to_wire(self._model, example(MODELS[self._model], batch=self._batch))
        with triton.InferenceServerClient(self._url) as client:
            for _ in range(self._times):
                if self.stop.is_set():
                    return
                try:
                    client.infer(
                        self._model,
                        inputs,
                        outputs=outputs,
                        client_timeout=self._timeout_s,
                        priority=self._priority,
                    )
                    self.answers.append(time.monotonic())
                except InferenceServerException as error:
                    self.failures.append((time.monotonic(), str(error)))
                    self.stop.wait(0.02)


@pytest.fixture
def call() -> Iterator[Callable[..., list[Caller]]]:
    """Starts callers; they are told to stop when the test ends."""
    started: list[Caller] = []

    def begin(number: int, *arguments, **options) -> list[Caller]:
        callers = [Caller(*arguments, **options) for _ in range(number)]
        started.extend(callers)
        for caller in callers:
            caller.start()
        return callers

    yield begin
    for caller in started:
        caller.stop.set()
    for caller in started:
        caller.join(60)


class Running:
    """`rfserve-server run` in a process of its own, with what it has said."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self._errors = process, errors
        assert process.stdout is not None
        line = next((text for text in iter(process.stdout.readline, "") if text.startswith("ready: ")), "")
        assert line, self.errors()
        words = line.replace(",", "").split()
        self.grpc, self.http, self.metrics = words[2], words[4], words[6]

    def errors(self) -> str:
        return self._errors.read_text()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `rfserve-server run` on free ports; it is ended, with its tritonserver, when the test is."""
    with ExitStack() as stack:

        def begin(repository: Path, *options: str) -> Running:
            command = [sys.executable, "-m", "rfserve.server.cli", "run", "--repository", str(repository)]
            command += [*FREE, "--open-admin"]
            errors = tmp_path / "errors"
            stream = stack.enter_context(errors.open("w"))
            process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=stream, text=True)
            stack.callback(_end, process)
            return Running(process, errors)

        yield begin


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        # The first begins to drain, the second ends it at once.
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
    try:
        process.wait(60)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        if process.stdout is not None:
            process.stdout.close()
