"""What the blocking and the asynchronous client share: address, channel options, retries, tensors on the wire."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from rfserve.clients.errors import ClientError, DeadlineExceeded, RequestError, ServerUnavailable, from_status
from rfserve.export.spec import find
from rfserve.export.spec.tensor import Array

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

# Tritonclient drops its own message size when channel arguments are given, and gRPC's is 4 MB.
CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The retries here know Triton's full queue from a server that is away; gRPC's do not.
    ("grpc.enable_retries", 0),
]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the server is and how long a call may take, retries included.

    `url` is `host:port`; a host name is resolved again as servers come and go, and all of its addresses are used.
    `timeout_s` is the deadline of every call. Only calls that found no server are repeated, within that time.
    """

    url: str
    timeout_s: float
    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ClientError(f"timeout_s: got {self.timeout_s}; expected above 0: every call needs a deadline")
        host, _, port = self.url.rpartition(":")
        if not host or not port.isdigit():
            raise ClientError(f"url: got {self.url!r}; expected host:port, as 127.0.0.1:8001")

    @property
    def target(self) -> str:
        """The address as gRPC takes it."""
        return self.url if "/" in self.url else f"dns:///{self.url}"

    def channel_options(self) -> dict[str, Any]:
        """Keyword arguments for tritonclient's `InferenceServerClient`."""
        options: dict[str, Any] = {"channel_args": CHANNEL_ARGUMENTS}
        if self.root_certificates is not None:
            options |= {
                "ssl": True,
                "root_certificates": str(self.root_certificates),
                "private_key": None if self.private_key is None else str(self.private_key),
                "certificate_chain": None if self.certificate_chain is None else str(self.certificate_chain),
            }
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
        pause = self._pause_s
        self._pause_s = min(2 * pause, LONGEST_PAUSE_S)
        if not isinstance(error, ServerUnavailable) or time.monotonic() + pause >= self._deadline:
            raise error
        return pause

    @staticmethod
    def expired(model: str) -> DeadlineExceeded:
        """The error when no time is left for another try."""
        return DeadlineExceeded(f"{model}: no answer within the time-out; give a longer one")


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
    """Outputs by name, and the version that made them."""
    found = {t.name: result.as_numpy(t.name) for t in find(model).outputs}
    return found, str(result.get_response().model_version)
