"""The asynchronous client: the same requests, answers and errors as the blocking one."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from rfserve.clients import request
from rfserve.clients.connection import Attempts, Connection, from_wire, to_wire
from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.export.spec.tensor import Array


class AsyncLocalizationClient:
    """As `LocalizationClient`, for one event loop. Use it as `async with`."""

    def __init__(self, url: str, *, timeout_s: float, model: str = "locate", version: str = "", **tls: Any) -> None:
        self.connection = Connection(url=url, timeout_s=timeout_s, **tls)
        self.model, self.version = model, version
        self._client = triton.InferenceServerClient(self.connection.target, **self.connection.channel_options())

    async def __aenter__(self) -> "AsyncLocalizationClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def locate(self, observations: Sequence[Observation]) -> Fix:
        """The emitter that these receivers saw."""
        return (await self.locate_batch([observations]))[0]

    async def locate_batch(self, events: Sequence[Sequence[Observation]]) -> list[Fix]:
        """One fix for each event, in one request."""
        begun = time.perf_counter()
        arrays = request.tensors(request.ensemble(self.model), events)
        made = time.perf_counter()
        request_id = uuid.uuid4().hex
        answer, version = await self.infer(self.model, arrays, version=self.version, request_id=request_id)
        timings = {"prepare": 1e3 * (made - begun), "round_trip": 1e3 * (time.perf_counter() - made)}
        return request.fixes(answer, model=self.model, version=version, request_id=request_id, timings_ms=timings)

    async def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """Raw tensors, batch first, to outputs by name and the version that made them."""
        inputs, outputs = to_wire(model, arrays)
        attempts = Attempts(self.connection.timeout_s)
        for left_s in attempts.remaining_s():
            try:
                result = await self._client.infer(
                    model, inputs, version, outputs=outputs, request_id=request_id, client_timeout=left_s
                )
            except InferenceServerException as error:
                problem = self.connection.translate(error, model)
                problem.__cause__ = error
                await asyncio.sleep(attempts.pause_s(problem))
            else:
                return from_wire(model, result)
        raise attempts.expired(model)
