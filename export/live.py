"""One running Triton server over gRPC: load models, see what is served, ask for answers; a deadline on every call."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import tritonclient.grpc as triton
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from rfserve.export.errors import LiveServerError
from rfserve.export.spec import ENSEMBLES, find
from rfserve.export.spec.model import TARGETS, Served
from rfserve.export.spec.queueing import Priority
from rfserve.export.spec.tensor import Array

ADMIN_HEADER = "triton-grpc-protocol-admin-key"
READY_POLL_S = 0.05

# A message of protobuf's, whose generated classes have no types here.
Message = Any

# The first text that the server's message holds, or gRPC's status, says what to do.
REMEDIES = (
    ("protocol is restricted", "give the administrator's key with --admin-key-file"),
    ("not allowed if polling", "a server in poll mode follows the repository by itself; leave --url out"),
    ("Hostname Verification", "--url has to name the host as the server's certificate does"),
    ("SSL_ERROR", "see --root-certificates, and --private-key with --certificate-chain"),
    ("UNAVAILABLE", "is it running? --url takes HOST:PORT of its gRPC endpoint"),
    ("DEADLINE_EXCEEDED", "give a longer --timeout-s, or see whether the server is overloaded"),
)


@dataclass(frozen=True, kw_only=True)
class Encryption:
    """How to talk to servers with TLS: trust the system's roots, unless `root_certificates` names others.

    A server that asks for a certificate gets `certificate_chain`, with its `private_key`. All three are PEM files, and
    each turns `tls` on; the names are those of `rfserve-client`. `server_name` is the name that a server's certificate
    has to show when it is called by another one, as pods are by their addresses.
    """

    tls: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise LiveServerError("got one of --private-key and --certificate-chain; expected both, or none")
        for file in (self.root_certificates, self.private_key, self.certificate_chain):
            if file is not None and not file.is_file():
                raise LiveServerError(f"there is no certificate file {file}; expected a PEM file")

    def channel_options(self) -> dict[str, Any]:
        """Keyword arguments for tritonclient's `InferenceServerClient`."""
        names = ("root_certificates", "private_key", "certificate_chain")
        files = {name: str(file) for name in names if (file := getattr(self, name)) is not None}
        if not self.tls and not files:
            return {}
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        # Tritonclient drops its own message sizes when arguments are given.
        sizes = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        return {"ssl": True, **files, **({"channel_args": [*sizes, *named]} if named else {})}


class LiveServer:
    """Control of the server at `url` (host:port of its gRPC). Every call ends within `timeout_s`.

    `admin_key` is for servers that restrict the model-repository and model-config protocols. Methods raise
    `LiveServerError`. Use it as a context manager, or `close` it.
    """

    def __init__(
        self, url: str, timeout_s: float = 30.0, admin_key: str | None = None, encryption: Encryption | None = None
    ) -> None:
        host, _, port = url.rpartition(":")
        if not host or "/" in host or not port.isdigit():
            raise LiveServerError(f"got server {url!r}; expected host:port of its gRPC endpoint, as 127.0.0.1:8001")
        if not 0 < timeout_s < float("inf"):
            raise LiveServerError(f"{url}: got a time-out of {timeout_s} s; expected above 0")
        self.url, self.timeout_s = url, timeout_s
        self._headers = None if admin_key is None else {ADMIN_HEADER: admin_key}
        self._client = triton.InferenceServerClient(url, **(encryption or Encryption()).channel_options())

    def __enter__(self) -> "LiveServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def load(self, model: str, configuration: Message | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Have the server read a model's configuration again and serve what it says.

        Returns once that is loaded. The version before goes on serving meanwhile, and stays when the load fails.
        Ensembles that run the model follow by themselves (tried on 2.51: no request to one fails).

        A `configuration` is taken instead of the repository's, which the server then does not look at again until it
        changes: a plain load that follows does nothing. Versions that differ in nothing but the version policy stay in
        memory, unless the repository's configuration changed meanwhile: taking one away takes no time. `files` (by path
        below the model's folder, as `2/model.onnx`) are taken instead of the repository's too, under any name; they
        need a configuration of that name.
        """
        given: dict[str, Any] = {}
        if configuration is not None:
            given["config"] = json_format.MessageToJson(configuration, preserving_proto_field_name=True)
        if files is not None:
            given["files"] = {f"file:{path}": content for path, content in files.items()}
        self._call(f"load {model}", self._client.load_model, model, headers=self._headers, **given)

    def unload(self, model: str) -> None:
        """Have the server forget a model once it has answered what it was asked."""
        self._call(f"unload {model}", self._client.unload_model, model, headers=self._headers)

    def configuration(self, model: str) -> Message:
        """The `ModelConfig` that a ready model runs with, with everything that Triton filled in."""
        return self._call(f"config of {model}", self._client.get_model_config, model, headers=self._headers).config

    def is_ready(self, model: str, version: int | None = None) -> bool:
        """Whether a version (default: any) is ready to answer."""
        name = "" if version is None else str(version)
        return bool(self._call(f"ready {model}/{name}", self._client.is_model_ready, model, name))

    def wait_until_ready(self, model: str, version: int) -> None:
        """Return when a version is ready; `LiveServerError` when it is not within the time-out."""
        deadline = time.monotonic() + self.timeout_s
        while not self.is_ready(model, version):
            if time.monotonic() > deadline:
                raise LiveServerError(
                    f"{self.url}: {model}/{version} is not ready after {self.timeout_s:g} s; ready are "
                    f"{self.served_versions(model) or 'none'}: does it serve this repository, and this target?"
                )
            time.sleep(READY_POLL_S)

    def served_versions(self, model: str) -> list[int]:
        """The versions that are ready to answer, ascending."""
        return sorted(version for name, version in self._ready() if name == model)

    def ready_models(self) -> list[str]:
        """The models that have a version ready to answer, by name."""
        return sorted({name for name, _ in self._ready()})

    def _ready(self) -> list[tuple[str, int]]:
        index = self._call("index", self._client.get_model_repository_index, headers=self._headers)
        return [(m.name, int(m.version)) for m in index.models if m.state == "READY"]

    def target(self, model: str) -> str | None:
        """Whose configuration of a model the server runs (`cpu` or `gpu`).

        None for an ensemble, which has one only, and for a model that is not loaded.
        """
        if not self.is_ready(model):
            return None
        return target_of(self.configuration(model))

    def infer(
        self,
        model: str,
        arrays: Mapping[str, Array],
        version: int | None = None,
        served_as: str | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> tuple[dict[str, Array], int]:
        """The outputs for checked inputs, and the version that made them; without one, the server chooses it.

        `served_as` is the name that the server has the model under, when it is another one.
        """
        spec = find(model)
        inputs = []
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            inputs.append(triton.InferInput(tensor.name, list(array.shape), np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        name = "" if version is None else str(version)
        called = served_as or model
        result = self._call(
            f"ask {called}/{name}", self._client.infer, called, inputs, model_version=name, priority=priority
        )
        found = {t.name: result.as_numpy(t.name) for t in spec.outputs}
        missing = [n for n, array in found.items() if array is None]
        if missing:
            raise LiveServerError(f"{self.url}: {model} answered without {missing}; is another model served there?")
        return found, int(result.get_response().model_version)

    def _call(self, what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, client_timeout=self.timeout_s, **options)
        except InferenceServerException as error:
            text = f"{str(error.status()).removeprefix('StatusCode.')}: {error.message()}"
            remedy = next((r for part, r in REMEDIES if part in text), "see the server's log")
            raise LiveServerError(f"{self.url}: cannot {what}: {text}; {remedy}") from error


def target_of(configuration: Message) -> str | None:
    """Whose machines a `ModelConfig` is for (`cpu` or `gpu`); None for an ensemble's, which is the same for all."""
    kinds = {g.Kind.Name(g.kind).removeprefix("KIND_").lower() for g in configuration.instance_group}
    return next((t for t in TARGETS if t in kinds), None)


@contextmanager
def dependents_kept(server: LiveServer, spec: Served) -> Iterator[None]:
    """See that the ensembles that run a model are ready afterwards when they were before.

    Triton (2.51) moves them to the new version by itself; one that it did not is loaded again.
    """
    dependents = [e.name for e in ENSEMBLES.values() if any(s.model.name == spec.name for s in e.steps)]
    ready = [name for name in dependents if server.is_ready(name)]
    try:
        yield
    finally:
        for name in ready:
            if not server.is_ready(name):
                server.load(name)


def admin_key(file: Path) -> str:
    """The key that a file holds; `LiveServerError` when it holds none."""
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LiveServerError(f"cannot read the administrator's key: {error}") from error
    if not key or not key.isprintable():
        raise LiveServerError(f"{file} holds no key; expected one line with the server's admin-key")
    return key
