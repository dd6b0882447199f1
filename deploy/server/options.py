"""What a server is started with, checked before anything runs."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rfserve.server import object_location
from rfserve.server.errors import PortBusy, RepositoryError, ServerError
from rfserve.server.security import Security

CONFIGS = ("cpu", "gpu", "gpu-tensorrt")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Port 0 picks a free port. Empty `models` serves every model of the repository.

    `repository` is a folder, or the `s3://…` location of one in an object store, as text. With `allow_partial`, models
    that do not load leave the others serving. `metrics_address` is that of Triton's metrics when it is not `address`.
    """

    repository: Path | str
    config: str = "cpu"
    address: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    models: tuple[str, ...] = ()
    load_timeout_s: float = 300.0
    exit_timeout_s: int = 30
    extra_arguments: tuple[str, ...] = ()
    log_file: Path | None = None
    security: Security = field(default_factory=Security)
    allow_partial: bool = False
    metrics_address: str | None = None

    def __post_init__(self) -> None:
        if self.config not in CONFIGS:
            raise ServerError(f"config: got {self.config!r}; expected one of {', '.join(CONFIGS)}")
        if self.load_timeout_s <= 0 or self.exit_timeout_s < 1:
            raise ServerError(
                f"time-outs: got {self.load_timeout_s} s to load, {self.exit_timeout_s} s to exit; expected > 0"
            )
        self.security.check_address(self.address)

    @property
    def plain_address(self) -> str:
        """Where HTTP and metrics listen, which have no TLS."""
        return self.security.plain_address(self.address)

    @property
    def is_object_store(self) -> bool:
        """Whether the repository is in an object store, which only tritonserver itself reads here."""
        return str(self.repository).startswith(object_location.SCHEME)

    @property
    def location(self) -> str:
        """The repository as tritonserver takes it."""
        if self.is_object_store:
            return object_location.triton_location(str(self.repository), os.environ)
        return str(Path(self.repository).resolve())

    def served_models(self) -> tuple[str, ...]:
        """The models to load; `RepositoryError` that says what to write when one of them cannot be.

        Of an object store, those that were asked for: what it holds is known once tritonserver has read it.
        """
        if self.is_object_store:
            return self.models
        folder = Path(self.repository)
        if not folder.is_dir():
            raise RepositoryError(f"no model repository at {folder}; write one with `rfserve-export write MODEL`")
        present = sorted(f.parent.name for f in folder.glob("*/config.pbtxt"))
        models = self.models or tuple(present)
        if not models:
            raise RepositoryError(f"{self.repository} holds no model; write one with `rfserve-export write MODEL`")
        problems = []
        for model in models:
            home = folder / model
            if model not in present:
                problems.append(f"{model} is not in it (it holds {', '.join(present) or 'nothing'})")
            elif not any(f.is_dir() and f.name.isdigit() for f in home.iterdir()):
                problems.append(f"{model} has no version: `rfserve-export write {model}`")
            elif not (home / "configs" / f"{self.config}.pbtxt").is_file():
                # Triton would quietly serve the plain config.pbtxt, which is the CPU's.
                problems.append(f"{model} has no configs/{self.config}.pbtxt: `rfserve-export configure`")
        if problems:
            raise RepositoryError(f"{self.repository} cannot be served: {'; '.join(problems)}")
        return models

    def arguments(self, *, models: Sequence[str], ports: tuple[int, int, int], shared_memory_prefix: str) -> list[str]:
        """What tritonserver is started with, on those ports (gRPC, HTTP, metrics)."""
        grpc, http, metrics = ports
        return [
            f"--model-repository={self.location}",
            f"--model-config-name={self.config}",
            "--model-control-mode=explicit",
            *(f"--load-model={m}" for m in models or ("*",)),
            "--strict-readiness=false",
            # A server that stays up can be asked why a model did not load.
            "--exit-on-error=false",
            f"--exit-timeout-secs={self.exit_timeout_s}",
            f"--grpc-address={self.address}",
            f"--http-address={self.plain_address}",
            f"--metrics-address={self.metrics_address or self.plain_address}",
            f"--grpc-port={grpc}",
            f"--http-port={http}",
            f"--metrics-port={metrics}",
            # Two servers on one host would share their shared-memory names.
            f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
            *self.security.arguments(self.address),
            *self.extra_arguments,
        ]

    def ports(self) -> tuple[int, int, int]:
        """Three different ports (gRPC, HTTP, metrics) that are free now; `PortBusy` names one that is not."""
        wanted = {
            "gRPC": (self.address, self.grpc_port),
            "HTTP": (self.plain_address, self.http_port),
            "metrics": (self.metrics_address or self.plain_address, self.metrics_port),
        }
        held: list[socket.socket] = []
        try:
            for name, (address, port) in wanted.items():
                holder = socket.socket()
                held.append(holder)
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    holder.bind((address, port))
                except OSError as error:
                    option = f"--{name.lower()}-port"
                    raise PortBusy(
                        f"{name} port {address}:{port}: {error.strerror}; stop what listens there, or give "
                        f"{option} N ({option} 0 picks a free one)"
                    ) from error
            first, second, third = (int(h.getsockname()[1]) for h in held)
            return first, second, third
        finally:
            for holder in held:
                holder.close()
