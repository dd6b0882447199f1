"""Calls whose deadline passes are left to the server to answer, and nobody waits for them: they are not cancelled.

Triton can end with a segmentation fault, or hang on the way to one, when a cancelled call races with its answer (its
issues 7368 and 8034). 24.10, which pip installs, did so for one in 337 whose deadline passed, and never for 11,861 that
were left alone (`make bench-serving`, `expired_deadlines`). Little is done for nothing: a server cannot stop what it
executes, and is told how long a request may wait in its queue.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent import futures
from typing import Any

from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from rfserve.clients.connection import server_timeout_us

# What a server needs to answer what it has begun; one that stands still gets its calls cancelled after it.
LATE_S = 10.0
# Whoever closes a client waits so long for late answers: a closed channel cancels them.
CLOSE_S = 1.0


class LateCalls:
    """The calls of one blocking client; safe to use from several threads."""

    def __init__(self) -> None:
        self._open: set[futures.Future[InferResult]] = set()
        self._lock = threading.Lock()

    def ask(self, client: Any, try_s: float, given: Mapping[str, Any]) -> InferResult:
        """What tritonclient's `client` answers to the inference `given`; `InferenceServerException` after `try_s`."""
        answer: futures.Future[InferResult] = futures.Future()

        def arrived(result: InferResult | None, error: InferenceServerException | None) -> None:
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        client.async_infer(**given, callback=arrived, **_times(try_s))
        with self._lock:
            self._open.add(answer)
        # At once, if it has come already.
        answer.add_done_callback(self._over)
        try:
            return answer.result(try_s)
        except TimeoutError:
            raise _expired() from None

    def close(self) -> None:
        """Wait for late answers, for `CLOSE_S` at most."""
        with self._lock:
            late = set(self._open)
        futures.wait(late, CLOSE_S)

    def _over(self, answer: "futures.Future[InferResult]") -> None:
        with self._lock:
            self._open.discard(answer)


class AsyncLateCalls:
    """The calls of one asynchronous client. Cancelling `ask` leaves its call alone too."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[InferResult]] = set()

    async def ask(self, client: Any, try_s: float, given: Mapping[str, Any]) -> InferResult:
        """As `LateCalls.ask`."""
        call = asyncio.create_task(client.infer(**given, **_times(try_s)))
        self._open.add(call)
        call.add_done_callback(self._over)
        await asyncio.wait({call}, timeout=try_s)
        if not call.done():
            raise _expired()
        return call.result()

    async def close(self) -> None:
        """As `LateCalls.close`."""
        if self._open:
            await asyncio.wait(self._open, timeout=CLOSE_S)

    def _over(self, call: "asyncio.Task[InferResult]") -> None:
        self._open.discard(call)
        # What became of a call that nobody waits for is nobody's error.
        if not call.cancelled():
            call.exception()


def _times(try_s: float) -> dict[str, Any]:
    return {"timeout": server_timeout_us(try_s), "client_timeout": try_s + LATE_S}


def _expired() -> InferenceServerException:
    return InferenceServerException("no answer within the deadline", status="StatusCode.DEADLINE_EXCEEDED")
