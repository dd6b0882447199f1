"""What the blocking and the asynchronous client share: address, channel options, retries, tensors on the wire."""

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from rfserve.clients.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidAnswer,
    ModelUnavailable,
    RequestError,
    ServerUnavailable,
    from_status,
)
from rfserve.export.spec import find
from rfserve.export.spec.tensor import Array

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
READY_POLL_S = 0.2

# Tritonclient drops its own message size when channel arguments are given, and gRPC's is 4 MB.
CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),
    # Servers close a connection ("too_many_pings") that pings more often than each 300 s while a long call is silent.
    ("grpc.keepalive_time_ms", 310_000),
    # Also gRPC's TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged before the connection is given up.
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC waits up to two minutes between its own attempts to connect: a server that is back would go unnoticed.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # The retries here know Triton's full queue from a server that is away; gRPC's do not.
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the server is and how long a call may take, retries included.

    `url` is `host:port`; a host name is resolved again as servers come and go, and all of its addresses are used.
    `timeout_s` is the deadline of every call. Only calls that found no server are repeated, within that time.
    `tls` encrypts, and trusts the system's roots unless `root_certificates` names others; a server that asks for a
    certificate gets `certificate_chain` with its `private_key`. All three are PEM files, and each turns `tls` on.
    """

    url: str
    timeout_s: float
    tls: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < float("inf"):
            raise ClientError(f"timeout_s: got {self.timeout_s}; expected above 0: every call needs a deadline")
        host, _, port = self.url.removeprefix("dns:///").rpartition(":")
        if not host or "/" in host or not port.isdigit():
            raise ClientError(f"url: got {self.url!r}; expected host:port of the gRPC endpoint, as 127.0.0.1:8001")
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ClientError("got one of private_key and certificate_chain; expected both, or none")
        for file in self._certificates().values():
            if file is not None and not file.is_file():
                raise ClientError(f"there is no certificate file {file}; expected a PEM file")

    @property
    def target(self) -> str:
        """The address as gRPC takes it."""
        return f"dns:///{self.url.removeprefix('dns:///')}"

    def _certificates(self) -> dict[str, Path | None]:
        return {
            "root_certificates": self.root_certificates,
            "private_key": self.private_key,
            "certificate_chain": self.certificate_chain,
        }

    def channel_options(self) -> dict[str, Any]:
        """Keyword arguments for tritonclient's `InferenceServerClient`."""
        options: dict[str, Any] = {"channel_args": CHANNEL_ARGUMENTS}
        files = {name: str(file) for name, file in self._certificates().items() if file is not None}
        if self.tls or files:
            options |= {"ssl": True, **files}
        return options

    def translate(self, error: InferenceServerException, model: str) -> RequestError:
        """The typed error for one of tritonclient's."""
        return from_status(str(error.status()), str(error.message()), url=self.url, model=model)


class Attempts:
    """The tries of one call: the time that is left for each, and the pause after a server that was away."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._pause_s = FIRST_PAUSE_S

    def remaining_s(self) -> Iterator[float]:
        """What is left of the time-out, for each try; ends when nothing is."""
        while (left := self._deadline - time.monotonic()) > 0:
            yield left

    def pause_s(self, error: RequestError) -> float:
        """How long to wait before the next try; raises `error` when it is not worth one, or time is short."""
        # Clients that lost one server together must not come back together.
        pause = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if not isinstance(error, ServerUnavailable) or time.monotonic() + pause >= self._deadline:
            raise error
        return pause

    @staticmethod
    def expired(model: str) -> DeadlineExceeded:
        """The error when no time is left for another try."""
        return DeadlineExceeded(f"{model}: no answer within the time-out; give a longer one")


class ReadyWait:
    """Waiting until a model is ready: the time that is left for each look, and what to say when it never was."""

    def __init__(self, connection: Connection, model: str, timeout_s: float) -> None:
        self._connection, self._model = connection, model
        self._deadline = time.monotonic() + timeout_s
        self.problem: RequestError = ModelUnavailable(
            f"{model} at {connection.url} is not ready after {timeout_s:g} s; see the server's log"
        )

    def looks_s(self) -> Iterator[float]:
        """The deadline of each look; ends when no time is left."""
        while (left := self._deadline - time.monotonic()) > 0:
            yield min(left, self._connection.timeout_s)

    def not_yet(self, error: InferenceServerException) -> None:
        """Note why this look failed; raises when waiting longer cannot help."""
        problem = self._connection.translate(error, self._model)
        if isinstance(problem, ServerUnavailable | DeadlineExceeded):
            problem.__cause__ = error
            self.problem = problem
        elif not isinstance(problem, ModelUnavailable):
            raise problem from error


def to_wire(model: str, arrays: Mapping[str, Array]) -> tuple[list[Any], list[Any]]:
    """Checked tensors as tritonclient's inputs and requested outputs; `TensorError` when they do not fit the spec."""
    spec = find(model)
    spec.check(arrays)
    inputs = []
    for tensor in spec.inputs:
        array = arrays[tensor.name]
        inputs.append(InferInput(tensor.name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    return inputs, [InferRequestedOutput(t.name) for t in spec.outputs]


def from_wire(model: str, result: InferResult) -> tuple[dict[str, Array], str]:
    """Outputs by name, and the version that made them; `InvalidAnswer` when they are not those of the spec."""
    found: dict[str, Array] = {}
    version = str(result.get_response().model_version)
    for tensor in find(model).outputs:
        try:
            array = result.as_numpy(tensor.name)
        except ValueError as error:
            # Triton's Python backend of 2.51 does this on numpy 2, without an error of its own.
            raise InvalidAnswer(
                f"{model} version {version}: output {tensor.name} came empty; expected {tensor.describe()}: does the "
                "server run on numpy below 2?"
            ) from error
        if array is None or array.dtype != tensor.dtype.numpy or array.ndim != len(tensor.axes) + 1:
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise InvalidAnswer(
                f"{model} version {version}: got {got} for output {tensor.name}; expected {tensor.describe()}: is "
                "another model served under this name?"
            )
        found[tensor.name] = array
    return found, version
