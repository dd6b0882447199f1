"""The blocking client: observations to fixes over gRPC."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rfserve.clients import tracing
from rfserve.clients.connection import READY_POLL_S, Attempts, Connection, ReadyWait, from_wire, to_wire
from rfserve.clients.errors import ModelUnavailable
from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.clients.request import Question
from rfserve.export.spec.tensor import Array


class LocalizationClient:
    """Asks one server for fixes; safe to use from several threads.

    `timeout_s` is the deadline of a call, retries included. An empty `version` takes the newest that is served. Further
    options are those of `Connection` (TLS). Methods raise the errors of `rfserve.clients.errors`, and `TensorError` for
    tensors that do not fit the model's spec, before anything is sent.
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

    def locate(self, observations: Sequence[Observation], *, request_id: str | None = None) -> Fix:
        """The emitter that these receivers saw, from the same instants (see `alignment.align`)."""
        return self.locate_batch([observations], request_id=request_id)[0]

    def locate_batch(self, events: Sequence[Sequence[Observation]], *, request_id: str | None = None) -> list[Fix]:
        """One fix for each event, in one request; `InvalidAnswer` names every event that got none."""
        question = Question(self.model, events, request_id)
        answer, version = self.infer(self.model, question.arrays, version=self.version, request_id=question.request_id)
        return question.fixes(answer, version)

    def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """Raw tensors, batch first, to outputs by name and the version that made them. NaN rows are the caller's."""
        inputs, outputs = to_wire(model, arrays)
        attempts = Attempts(self.connection.timeout_s)
        for left_s in attempts.remaining_s():
            try:
                result = self._client.infer(
                    model,
                    inputs,
                    version,
                    outputs=outputs,
                    request_id=request_id,
                    client_timeout=left_s,
                    headers=tracing.headers(),
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
        wait = ReadyWait(self.connection, self.model, timeout_s)
        for look_s in wait.looks_s():
            try:
                if self._client.is_model_ready(self.model, self.version, client_timeout=look_s):
                    return
            except InferenceServerException as error:
                wait.not_yet(error)
            time.sleep(READY_POLL_S)
        raise wait.problem
