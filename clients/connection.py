"""What the blocking and the asynchronous client share: addresses, channel options, tensors on the wire."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from rfserve.clients.retries import RetryLimit
from rfserve.clients.servers import Channel, Servers
from rfserve.export.spec import find
from rfserve.export.spec.tensor import Array

# What the way back takes of the deadline: a server need not answer later than that.
WAY_SHARE = 0.05
LONGEST_WAY_S = 0.05
READY_POLL_S = 0.2
MOST_CONNECTIONS = 64
# The metadata key under which Triton expects the administrator's key.
ADMIN_HEADER = "triton-grpc-protocol-admin-key"

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
    # A pod that ends still takes calls from whoever does not look for others; gRPC waits 30 s between two looks.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # The retries here know Triton's full queue from a server that is away; gRPC's do not.
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the servers are and how long a call may take, retries included.

    `url` is `host:port`; a host name is resolved again as servers come and go, and all of its addresses are used. It
    may also be several, as a sequence or with commas between them: calls go to each in turn, and past one that is away.
    Each then has to show a certificate for its own name.

    `timeout_s` is the deadline of every call, and `try_timeout_s` how long one of several servers may take before
    another one is asked (None: as long as the call). What is left of it goes to the server with each request, so that
    it drops from its queue what nobody waits for any more. `retry_limit` bounds what all calls of a client repeat.

    `connections` is the number of connections to each server. One is the fastest to a server nearby. More of them help
    where the way is long and each connection's rate is bounded (4 carried 3.7 times the raw IQ of 1 where each 64 kB
    took 5 ms more), and where a balancer in between (a Kubernetes Service, say) places whole connections.

    `tls` encrypts, and trusts the system's roots unless `root_certificates` names others; a server that asks for a
    certificate gets `certificate_chain` with its `private_key`. All three are PEM files, and each turns `tls` on.
    """

    url: str | Sequence[str]
    timeout_s: float
    try_timeout_s: float | None = None
    retry_limit: RetryLimit = field(default_factory=RetryLimit)
    connections: int = 1
    tls: bool = False
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None

    def __post_init__(self) -> None:
        for name in ("timeout_s", "try_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ClientError(f"{name}: got {value}; expected above 0: every call needs a deadline")
        if not 1 <= self.connections <= MOST_CONNECTIONS:
            raise ClientError(f"connections: got {self.connections}; expected 1 to {MOST_CONNECTIONS}")
        for url in self.urls or ("",):
            host, _, port = url.removeprefix("dns:///").rpartition(":")
            if not host or "/" in host or not port.isdigit():
                raise ClientError(f"url: got {url!r}; expected host:port of the gRPC endpoint, as 127.0.0.1:8001")
        if len(set(self.urls)) != len(self.urls):
            raise ClientError(f"url: got {', '.join(self.urls)}; expected each server once")
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ClientError("got one of private_key and certificate_chain; expected both, or none")
        for file in self._certificates().values():
            if file is not None and not file.is_file():
                raise ClientError(f"there is no certificate file {file}; expected a PEM file")

    @property
    def urls(self) -> tuple[str, ...]:
        """Each server's address."""
        given = self.url.split(",") if isinstance(self.url, str) else self.url
        return tuple(u.strip() for u in given)

    @property
    def target(self) -> str:
        """The address of the first server, as gRPC takes it."""
        return _target(self.urls[0])

    def open(self, make: Callable[..., Any]) -> Servers[Any]:
        """The channels to every server; `make` is one of tritonclient's two classes."""
        options = self.channel_options()
        if self.connections > 1:
            # Channels with equal arguments would share one connection.
            options["channel_args"] = [*options["channel_args"], ("grpc.use_local_subchannel_pool", 1)]
        return Servers(
            [
                Channel(server=url, client=make(_target(url), **options))
                for _ in range(self.connections)
                for url in self.urls
            ]
        )

    def try_s(self, left_s: float) -> float:
        """The time of one try in seconds, when so much of the deadline is left."""
        if self.try_timeout_s is None or len(self.urls) == 1:
            return left_s
        return min(left_s, self.try_timeout_s)

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

    def translate(self, error: InferenceServerException, model: str, server: str | None = None) -> RequestError:
        """The typed error for one of tritonclient's, with it as its cause."""
        url = server or ", ".join(self.urls)
        problem = from_status(str(error.status()), str(error.message()), url=url, model=model)
        problem.__cause__ = error
        return problem


def server_timeout_us(left_s: float) -> int:
    """How long the server may keep a request in its queue, in µs, when so much of the deadline is left.

    That is `timeout` in Triton's request parameters. A server heeds it where its configuration has
    `allow_timeout_override` and a `default_timeout_microseconds` that is longer.
    """
    return max(1, int(1e6 * (left_s - min(WAY_SHARE * left_s, LONGEST_WAY_S))))


def _target(url: str) -> str:
    return f"dns:///{url.removeprefix('dns:///')}"


class ReadyWait:
    """Waiting until a model is ready: the time that is left for each look, and what to say when it never was."""

    def __init__(self, connection: Connection, model: str, timeout_s: float) -> None:
        self._connection, self._model = connection, model
        self._deadline = time.monotonic() + timeout_s
        self.problem: RequestError = ModelUnavailable(
            f"{model} at {', '.join(connection.urls)} is not ready after {timeout_s:g} s; see the server's log"
        )

    def looks_s(self) -> Iterator[float]:
        """The deadline of each look; ends when no time is left."""
        while (left := self._deadline - time.monotonic()) > 0:
            yield min(left, self._connection.timeout_s)

    def not_yet(self, error: InferenceServerException) -> None:
        """Note why this look failed; raises when waiting longer cannot help."""
        problem = self._connection.translate(error, self._model)
        if isinstance(problem, ServerUnavailable | DeadlineExceeded):
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
