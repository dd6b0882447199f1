"""The asynchronous client: the same requests, answers and errors as the blocking one."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from rfserve.clients import tracing
from rfserve.clients.connection import READY_POLL_S, Attempts, Connection, ReadyWait, from_wire, to_wire
from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.clients.request import Question
from rfserve.export.spec.tensor import Array


class AsyncLocalizationClient:
    """As `LocalizationClient`, for one event loop. Make it inside the loop, and use it as `async with`."""

    def __init__(self, url: str, *, timeout_s: float, model: str = "locate", version: str = "", **tls: Any) -> None:
        self.connection = Connection(url=url, timeout_s=timeout_s, **tls)
        self.model, self.version = model, version
        self._client = triton.InferenceServerClient(self.connection.target, **self.connection.channel_options())

    async def __aenter__(self) -> "AsyncLocalizationClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def locate(self, observations: Sequence[Observation], *, request_id: str | None = None) -> Fix:
        """The emitter that these receivers saw."""
        return (await self.locate_batch([observations], request_id=request_id))[0]

    async def locate_batch(
        self, events: Sequence[Sequence[Observation]], *, request_id: str | None = None
    ) -> list[Fix]:
        """One fix for each event, in one request; `InvalidAnswer` names every event that got none."""
        question = Question(self.model, events, request_id)
        answer, version = await self.infer(
            self.model, question.arrays, version=self.version, request_id=question.request_id
        )
        return question.fixes(answer, version)

    async def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """Raw tensors, batch first, to outputs by name and the version that made them."""
        inputs, outputs = to_wire(model, arrays)
        attempts = Attempts(self.connection.timeout_s)
        for left_s in attempts.remaining_s():
            try:
                result = await self._client.infer(
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
                await asyncio.sleep(attempts.pause_s(problem))
            else:
                return from_wire(model, result)
        raise attempts.expired(model)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the model is ready; `ModelUnavailable` or the last `RequestError` when it is not in time."""
        wait = ReadyWait(self.connection, self.model, timeout_s)
        for look_s in wait.looks_s():
            try:
                if await self._client.is_model_ready(self.model, self.version, client_timeout=look_s):
                    return
            except InferenceServerException as error:
                wait.not_yet(error)
            await asyncio.sleep(READY_POLL_S)
        raise wait.problem
