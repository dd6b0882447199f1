"""The asynchronous client for callers that block: what a command needs to hedge."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rfserve.clients import many
from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.fix import Fix
from rfserve.clients.many import EventSource, Outcome
from rfserve.clients.observation import Observation
from rfserve.clients.retries import Counts
from rfserve.export.spec.queueing import CLIENT_CONCURRENCY
from rfserve.export.spec.tensor import Array

Answer = TypeVar("Answer")


class HedgedClient:
    """`AsyncLocalizationClient` in an event loop of its own, in a thread; called as `LocalizationClient` is."""

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rfserve-hedged", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(_made(lambda: AsyncLocalizationClient(**options)))
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "HedgedClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """What was sent."""
        return self._client.counts

    def close(self) -> None:
        """Close the channels, and end the loop."""
        try:
            self._wait(self._client.close())
        finally:
            self._end()

    def locate(self, observations: Sequence[Observation], *, request_id: str | None = None) -> Fix:
        """As `LocalizationClient.locate`."""
        return self._wait(self._client.locate(observations, request_id=request_id))

    def locate_many(
        self,
        events: Iterable[EventSource],
        *,
        concurrency: int = CLIENT_CONCURRENCY,
        ordered: bool = True,
        progress: bool = False,
    ) -> Generator[Outcome, None, None]:
        """As `LocalizationClient.locate_many`."""
        return many.run(self.locate, events, concurrency=concurrency, ordered=ordered, progress=progress)

    def infer(
        self, model: str, arrays: Mapping[str, Array], *, version: str = "", request_id: str = ""
    ) -> tuple[dict[str, Array], str]:
        """As `LocalizationClient.infer`."""
        return self._wait(self._client.infer(model, arrays, version=version, request_id=request_id))

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C, too: nobody waits for it any more.
            future.cancel()
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _made(make: Callable[[], Answer]) -> Answer:
    """A client belongs to the loop in which it was made."""
    return make()
