"""The blocking client: observations to fixes over gRPC."""

import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rfserve.clients import many
from rfserve.clients.base_client import BaseClient
from rfserve.clients.connection import READY_POLL_S, ReadyWait, from_wire, to_wire
from rfserve.clients.errors import ModelUnavailable, RequestError
from rfserve.clients.fix import Fix
from rfserve.clients.late_calls import LateCalls
from rfserve.clients.many import EventSource, Outcome
from rfserve.clients.observation import Observation
from rfserve.clients.retries import Attempts
from rfserve.clients.shared_memory import Regions
from rfserve.export.spec.queueing import CLIENT_CONCURRENCY, Priority
from rfserve.export.spec.tensor import Array


class LocalizationClient(BaseClient):
    """Asks servers for fixes; safe to use from several threads.

    `timeout_s` is the deadline of a call, retries included. An empty `version` takes the newest that is served. Further
    options are `pad_receivers` and those of `Connection` (several servers, connections, retries, TLS). Methods raise
    the errors of `rfserve.clients.errors`, and `TensorError` for tensors that do not fit the model's spec, before
    anything is sent.

    `known_receivers` are the receiver ids that the checkpoint was trained with, if that is not all of 0 to 9. Receivers
    that must not be sent (an id that is not among them, the same receiver twice) are an error, or are left out as long
    as `minimum_receivers` remain: the fix then says so, as it does for those that `alignment.align` left out.

    `priority` is that of every request in the server's queues. `NORMAL` is for what somebody waits for; `BULK` lets all
    others go first, and may wait for up to 30 s in a queue if `timeout_s` allows it.

    Requests have ten receiver slots, however many receivers there are, so that any two can share a batch. With
    `pad_receivers=False` they have as many as there are receivers: with three of them, a third of the bytes.

    `shared_memory` hands tensors to a server on this machine without sending them: worth it for the raw IQ of the
    ensembles, and not for what is smaller (see `rfserve.clients.shared_memory`); a server may want its administrator's
    `admin_key` for that. `counts` says what was sent.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_s: float,
        model: str = "locate",
        version: str = "",
        known_receivers: Collection[int] | None = None,
        minimum_receivers: int | None = None,
        priority: Priority = Priority.NORMAL,
        shared_memory: bool = False,
        admin_key: str = "",
        **options: Any,
    ) -> None:
        super().__init__(
            triton.InferenceServerClient,
            url,
            timeout_s=timeout_s,
            model=model,
            version=version,
            known_receivers=known_receivers,
            minimum_receivers=minimum_receivers,
            priority=priority,
            **options,
        )
        self._calls = LateCalls()
        self._regions: Regions | None = None
        if shared_memory:
            self._regions = Regions(self.connection, self._servers.channels[0].client, admin_key)

    def __enter__(self) -> "LocalizationClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels, and give shared memory back; waits a second at most for answers that are late."""
        self._calls.close()
        if self._regions is not None:
            self._regions.close()
        for channel in self._servers.channels:
            channel.client.close()

    def locate(self, observations: Sequence[Observation], *, request_id: str | None = None) -> Fix:
        """The emitter that these receivers saw, from the same instants (see `alignment.align`)."""
        return self.locate_batch([observations], request_id=request_id)[0]

    def locate_batch(self, events: Sequence[Sequence[Observation]], *, request_id: str | None = None) -> list[Fix]:
        """One fix for each event, in one request; `InvalidAnswer` names every event that got none."""
        question = self._question(events, request_id)
        answer, version = self.infer(self.model, question.arrays, version=self.version, request_id=question.request_id)
        return question.fixes(answer, version)

    def locate_many(
        self,
        events: Iterable[EventSource],
        *,
        concurrency: int = CLIENT_CONCURRENCY,
        ordered: bool = True,
        progress: bool = False,
    ) -> Generator[Outcome, None, None]:
        """A fix or an error for each event, with up to `concurrency` requests in flight.

        Events are taken from `events` as they are needed, four for each request in flight, so that any number of them
        fits into memory; those of one length are sent next to each other, as a server joins no others. One that is a
        function is called for its observations in the thread that sends them; what it raises becomes the error of that
        event, and so does everything else that fails: the others go on. Outcomes come in the order of the events, or,
        with `ordered=False`, as they are made. `progress` draws a bar on a terminal.
        """
        return many.run(self.locate, events, concurrency=concurrency, ordered=ordered, progress=progress)

    def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """Raw tensors, batch first, to outputs by name and the version that made them. NaN rows are the caller's."""
        if self._regions is None:
            return self._ask(
                model, *to_wire(model, arrays), self.connection.timeout_s, version=version, request_id=request_id
            )
        return self._regions.ask(
            model, arrays, lambda *given: self._ask(model, *given, version=version, request_id=request_id)
        )

    def _ask(
        self, model: str, inputs: list[Any], outputs: list[Any], timeout_s: float, *, version: str, request_id: str
    ) -> tuple[dict[str, Array], str]:
        attempts = Attempts(timeout_s, self._servers, self._budget, self.counts)
        given = self._inference(model, inputs, outputs, version, request_id)
        for left_s, channel in attempts:
            try_s = self.connection.try_s(left_s)
            try:
                result = self._calls.ask(channel.client, try_s, given)
            except InferenceServerException as error:
                problem = self.connection.translate(error, model, channel.server)
                time.sleep(attempts.failed(channel, problem))
            else:
                self._servers.answered(channel)
                return from_wire(model, result)
        raise attempts.expired(model)

    def is_ready(self, model: str | None = None) -> bool:
        """Whether the model answers as ready, at one of the servers; `RequestError` when there is none."""
        name = model or self.model
        problem: RequestError | None = None
        answered = False
        for channel in self._servers.one_of_each():
            try:
                if channel.client.is_model_ready(name, self.version, client_timeout=self.connection.timeout_s):
                    return True
                answered = True
            except InferenceServerException as error:
                found = self.connection.translate(error, name, channel.server)
                if isinstance(found, ModelUnavailable):
                    answered = True
                else:
                    problem = found
        if problem is not None and not answered:
            raise problem
        return False

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the model is ready; `ModelUnavailable` or the last `RequestError` when it is not in time.

        Of several servers, one is enough.
        """
        wait = ReadyWait(self.connection, self.model, timeout_s)
        for look_s in wait.looks_s():
            channel = self._servers.pick()
            try:
                if channel.client.is_model_ready(self.model, self.version, client_timeout=look_s):
                    return
            except InferenceServerException as error:
                wait.not_yet(error)
            time.sleep(READY_POLL_S)
        raise wait.problem
