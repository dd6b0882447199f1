"""Certificates of an authority, a Kubernetes API, repositories to serve and to spoil, busy callers, and the server."""

import ipaddress
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


@pytest.fixture
def answering() -> Iterator[Callable[[ThreadingHTTPServer], None]]:
    """Has HTTP servers answer, each in a thread, until the test ends."""
    with ExitStack() as stack:

        def start(server: ThreadingHTTPServer) -> None:
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)

        yield start


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


class ClusterServer:
    """An HTTPS server that answers as the Kubernetes API does to who lists EndpointSlices with the right token.

    `slices` are the objects of the list, `pages` how many of them an answer holds; `looks` counts the lists. `before`
    is called before each list with the number of those before it.
    """

    def __init__(self, authority: Authority, pair: Pair, folder: Path) -> None:
        self.slices: list[dict[str, Any]] = []
        self.page, self.looks, self.before = 500, 0, lambda _: None
        self.paths: list[str] = []
        self.account = folder
        self.account.mkdir()
        self.renew("first-token")
        shutil.copy(authority.file, folder / "ca.crt")
        (folder / "namespace").write_text("radio")
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = cluster._answer(self.path, self.headers.get("Authorization", ""))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer((NAMED, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://{NAMED}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def renew(self, token: str) -> None:
        self._token = token
        (self.account / "token").write_text(token)

    def serve(self, ready: dict[str, str], starting: dict[str, str] | None = None, port: str = "grpc") -> None:
        """Pods by name, with the address of each; a slice for each port, as Kubernetes makes them."""
        self.slices = []
        for name, address in {**ready, **(starting or {})}.items():
            host, _, number = address.rpartition(":")
            self.slices.append(slice_of([endpoint(name, host, ready=name in ready)], {port: int(number)}))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        self.paths.append(path)
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if authorization != f"Bearer {self._token}":
            return 401, {"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401}
        if parts.path != "/apis/discovery.k8s.io/v1/namespaces/radio/endpointslices":
            user = "system:serviceaccount:radio:release"
            said = f'endpointslices.discovery.k8s.io is forbidden: User "{user}" cannot list resource'
            return 403, {"kind": "Status", "status": "Failure", "message": said, "code": 403}
        first = int(query.get("continue", "0"))
        if not first:
            self.before(self.looks)
            self.looks += 1
        wanted = query["labelSelector"].removeprefix("kubernetes.io/service-name=")
        found = [s for s in self.slices if s["metadata"]["labels"]["kubernetes.io/service-name"] == wanted]
        size = min(self.page, int(query["limit"]))
        following = str(first + size) if first + size < len(found) else ""
        metadata = {"resourceVersion": "1", **({"continue": following} if following else {})}
        kind = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1"}
        return 200, kind | {"metadata": metadata, "items": found[first : first + size]}


def slice_of(
    endpoints: list[dict[str, Any]], ports: dict[str, int], *, kind: str = "IPv4", service: str = "triton"
) -> dict[str, Any]:
    """An EndpointSlice, with what a real one has."""
    return {
        "metadata": {"name": f"{service}-abcde", "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [{"name": name, "port": number, "protocol": "TCP"} for name, number in ports.items()],
    }


def endpoint(name: str, address: str, *, ready: bool = True, terminating: bool = False) -> dict[str, Any]:
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
        "nodeName": "node-1",
        "targetRef": {"kind": "Pod", "namespace": "radio", "name": name, "uid": name},
    }


@pytest.fixture
def cluster(authority: Authority, server_pair: Pair, tmp_path: Path) -> Iterator[ClusterServer]:
    """The API server, and the folder of a service account that it knows."""
    server = ClusterServer(authority, server_pair, tmp_path / "serviceaccount")
    yield server
    server.stop()


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
