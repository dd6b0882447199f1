"""The blocking client: observations to fixes over gRPC."""

import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rfserve.clients import request
from rfserve.clients.connection import Attempts, Connection, from_wire, to_wire
from rfserve.clients.errors import ModelUnavailable, RequestError, ServerUnavailable
from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.export.spec.tensor import Array

READY_POLL_S = 0.2


class LocalizationClient:
    """Asks one server for fixes; safe to use from several threads.

    `timeout_s` is the deadline of a call, retries included. Further options are those of `Connection` (TLS).
    Methods raise the errors of `rfserve.clients.errors`.
    """

    def __init__(self, url: str, *, timeout_s: float, model: str = "locate", version: str = "", **tls: Any) -> None:
        self.connection = Connection(url=url, timeout_s=timeout_s, **tls)
        self.model, self.version = model, version
        self._client = triton.InferenceServerClient(self.connection.target, **self.connection.channel_options())

    def __enter__(self) -> "LocalizationClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    def locate(self, observations: Sequence[Observation]) -> Fix:
        """The emitter that these receivers saw, from the same instants (see `alignment.align`)."""
        return self.locate_batch([observations])[0]

    def locate_batch(self, events: Sequence[Sequence[Observation]]) -> list[Fix]:
        """One fix for each event, in one request."""
        begun = time.perf_counter()
        arrays = request.tensors(request.ensemble(self.model), events)
        made = time.perf_counter()
        request_id = uuid.uuid4().hex
        answer, version = self.infer(self.model, arrays, version=self.version, request_id=request_id)
        timings = {"prepare": 1e3 * (made - begun), "round_trip": 1e3 * (time.perf_counter() - made)}
        return request.fixes(answer, model=self.model, version=version, request_id=request_id, timings_ms=timings)

    def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """Raw tensors, batch first, to outputs by name and the version that made them. NaN rows are the caller's."""
        inputs, outputs = to_wire(model, arrays)
        attempts = Attempts(self.connection.timeout_s)
        for left_s in attempts.remaining_s():
            try:
                result = self._client.infer(
                    model, inputs, version, outputs=outputs, request_id=request_id, client_timeout=left_s
                )
            except InferenceServerException as error:
                problem = self.connection.translate(error, model)
                problem.__cause__ = error
                time.sleep(attempts.pause_s(problem))
            else:
                return from_wire(model, result)
        raise attempts.expired(model)

    def is_ready(self, model: str | None = None) -> bool:
        """Whether the model answers as ready; `RequestError` when there is no server."""
        name = model or self.model
        try:
            return bool(self._client.is_model_ready(name, self.version, client_timeout=self.connection.timeout_s))
        except InferenceServerException as error:
            problem = self.connection.translate(error, name)
            if isinstance(problem, ModelUnavailable):
                return False
            raise problem from error

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the model is ready; `ModelUnavailable` or the last `RequestError` when it is not in time."""
        deadline = time.monotonic() + timeout_s
        last: RequestError = ModelUnavailable(
            f"{self.model} at {self.connection.url} is not ready after {timeout_s:g} s; see the server's log"
        )
        while time.monotonic() < deadline:
            try:
                if self.is_ready():
                    return
            except ServerUnavailable as error:
                last = error
            time.sleep(READY_POLL_S)
        raise last
