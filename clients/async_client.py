"""The asynchronous client: the same requests, answers and errors as the blocking one."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from rfserve.clients import many
from rfserve.clients.base_client import BaseClient
from rfserve.clients.connection import READY_POLL_S, ReadyWait, from_wire, to_wire
from rfserve.clients.fix import Fix
from rfserve.clients.hedging import HedgeDelay, Hedging
from rfserve.clients.late_calls import AsyncLateCalls
from rfserve.clients.many import EventSource, Outcome
from rfserve.clients.observation import Observation
from rfserve.clients.retries import Attempts
from rfserve.clients.servers import Channel
from rfserve.export.spec.queueing import CLIENT_CONCURRENCY, Priority
from rfserve.export.spec.tensor import Array


class AsyncLocalizationClient(BaseClient):
    """As `LocalizationClient`, for one event loop. Make it inside the loop, and use it as `async with`.

    `hedging` sends a request a second time when its answer is late. It has no shared memory.
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
        hedging: Hedging | None = None,
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
        self._calls = AsyncLateCalls()
        self._delay = HedgeDelay(hedging) if hedging is not None else None

    async def __aenter__(self) -> "AsyncLocalizationClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels; waits a second at most for answers that are late."""
        await self._calls.close()
        for channel in self._servers.channels:
            await channel.client.close()

    async def locate(self, observations: Sequence[Observation], *, request_id: str | None = None) -> Fix:
        """The emitter that these receivers saw."""
        return (await self.locate_batch([observations], request_id=request_id))[0]

    async def locate_batch(
        self, events: Sequence[Sequence[Observation]], *, request_id: str | None = None
    ) -> list[Fix]:
        """One fix for each event, in one request; `InvalidAnswer` names every event that got none."""
        question = self._question(events, request_id)
        answer, version = await self.infer(
            self.model, question.arrays, version=self.version, request_id=question.request_id
        )
        return question.fixes(answer, version)

    def locate_many(
        self,
        events: Iterable[EventSource] | AsyncIterable[EventSource],
        *,
        concurrency: int = CLIENT_CONCURRENCY,
        ordered: bool = True,
        progress: bool = False,
    ) -> AsyncGenerator[Outcome, None]:
        """As `LocalizationClient.locate_many`; functions are called in a thread, so that the loop goes on."""
        return many.run_async(self.locate, events, concurrency=concurrency, ordered=ordered, progress=progress)

    async def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """Raw tensors, batch first, to outputs by name and the version that made them."""
        inputs, outputs = to_wire(model, arrays)
        attempts = Attempts(self.connection.timeout_s, self._servers, self._budget, self.counts)
        given = self._inference(model, inputs, outputs, version, request_id)
        for left_s, channel in attempts:
            try:
                result = await self._hedged(attempts, channel, self.connection.try_s(left_s), given)
            except InferenceServerException as error:
                problem = self.connection.translate(error, model, channel.server)
                await asyncio.sleep(attempts.failed(channel, problem))
            else:
                return from_wire(model, result)
        raise attempts.expired(model)

    async def _hedged(
        self, attempts: "Attempts[Any]", first: Channel[Any], try_s: float, given: Mapping[str, Any]
    ) -> Any:
        """The first answer of one request, or of a second one that is sent when it is late."""
        after_s = None if self._delay is None else self._delay.after_s
        if after_s is None or after_s >= try_s:
            return await self._send(first, try_s, given)
        begun = time.monotonic()
        asked = asyncio.create_task(self._send(first, try_s, given))
        tasks = {asked: first}
        try:
            done, _ = await asyncio.wait(tasks, timeout=after_s)
            second = None if done else attempts.hedge(first)
            if second is not None:
                left_s = try_s - (time.monotonic() - begun)
                tasks[asyncio.create_task(self._send(second, left_s, given))] = second
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    channel, error = tasks[task], task.exception()
                    if error is None:
                        if task is not asked:
                            self.counts.add("hedges_won")
                            if channel.server != first.server:
                                self._servers.lost(first)
                        return task.result()
                    if task is not asked and isinstance(error, InferenceServerException):
                        problem = self.connection.translate(error, given["model_name"], channel.server)
                        attempts.hedge_failed(channel, problem)
            # The caller takes what is raised for the first server's.
            return asked.result()
        finally:
            for task in tasks:
                task.cancel()
            # What failed besides the answer is nobody's error.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, channel: Channel[Any], try_s: float, given: Mapping[str, Any]) -> Any:
        begun = time.monotonic()
        result = await self._calls.ask(channel.client, try_s, given)
        self._servers.answered(channel)
        if self._delay is not None:
            self._delay.observe(time.monotonic() - begun)
        return result

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the model is ready; `ModelUnavailable` or the last `RequestError` when it is not in time."""
        wait = ReadyWait(self.connection, self.model, timeout_s)
        for look_s in wait.looks_s():
            channel = self._servers.pick()
            try:
                if await channel.client.is_model_ready(self.model, self.version, client_timeout=look_s):
                    return
            except InferenceServerException as error:
                wait.not_yet(error)
            await asyncio.sleep(READY_POLL_S)
        raise wait.problem
