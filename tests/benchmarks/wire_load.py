"""Load that costs its own process little: requests serialised once, sent over one raw gRPC channel.

`tritonclient` would copy every tensor for every request, which on two cores is taken from the server that is measured.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from rfserve.clients.connection import CHANNEL_ARGUMENTS
from rfserve.export.spec.queueing import REFUSAL_TEXTS
from rfserve.loadtest.arrivals import poisson_s
from rfserve.loadtest.payload import METHOD, serialised

__all__ = ["Outcome", "WireLoad", "saturated", "serialised"]


@dataclass(kw_only=True)
class Outcome:
    """What became of the requests of one run. Latencies count from when a request was due."""

    duration_s: float = 0.0
    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rate_hz(self) -> float:
        """Answers a second."""
        return len(self.answered_ms) / self.duration_s

    @property
    def failed(self) -> int:
        """Requests that were neither answered nor refused for overload."""
        return sum(count for reason, count in self.reasons.items() if reason not in REFUSAL_TEXTS)

    def answered_at_ms(self, percentile: float) -> float:
        """Latency of what was answered; NaN when nothing was."""
        return _percentile(self.answered_ms, percentile)

    def refused_at_ms(self, percentile: float) -> float:
        """How long it took to refuse; NaN when nothing was."""
        return _percentile(self.refused_ms, percentile)

    def lag_at_ms(self, percentile: float) -> float:
        """How late the generator was."""
        return _percentile(self.lags_ms, percentile)

    def add(self, other: "Outcome") -> None:
        """Take in another run."""
        self.duration_s += other.duration_s
        self.answered_ms += other.answered_ms
        self.refused_ms += other.refused_ms
        self.lags_ms += other.lags_ms
        self.reasons += other.reasons


def _percentile(values: list[float], percentile: float) -> float:
    return float(np.percentile(values, percentile, method="higher")) if values else float("nan")


class WireLoad:
    """Use as `async with WireLoad(url) as load`."""

    def __init__(self, url: str, *, deadline_s: float = 30.0) -> None:
        self._url, self._deadline_s = url, deadline_s

    async def __aenter__(self) -> "WireLoad":
        self._channel = grpc.aio.insecure_channel(self._url, options=CHANNEL_ARGUMENTS)
        self._call = self._channel.unary_unary(
            METHOD, request_serializer=None, response_deserializer=service_pb2.ModelInferResponse.FromString
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, request: bytes, outcome: Outcome, due: float | None = None) -> Any:
        """One request, and what became of it; the answer, or None."""
        due = time.perf_counter() if due is None else due
        outcome.lags_ms.append(1e3 * (time.perf_counter() - due))
        try:
            answer = await self._call(request, timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            text = error.details() or ""
            reason = next((t for t in REFUSAL_TEXTS if t in text), f"{error.code().name}: {text}")
            outcome.reasons[reason] += 1
            outcome.refused_ms.append(1e3 * (time.perf_counter() - due))
            return None
        outcome.answered_ms.append(1e3 * (time.perf_counter() - due))
        return answer

    async def closed(self, requests: Sequence[bytes], *, concurrency: int, duration_s: float) -> Outcome:
        """As many in flight as said, each sent when the one before it was answered."""
        outcome = Outcome()
        pool = itertools.cycle(requests)
        begun = time.perf_counter()

        async def worker() -> None:
            while time.perf_counter() - begun < duration_s:
                await self.send(next(pool), outcome)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        outcome.duration_s = time.perf_counter() - begun
        return outcome

    async def opened(self, requests: Sequence[bytes], *, rate_hz: float, duration_s: float, seed: int = 0) -> Outcome:
        """Independent arrivals at a rate, sent when they are due, whatever became of earlier ones."""
        outcome = Outcome()
        pool = itertools.cycle(requests)
        tasks = []
        begun = time.perf_counter()
        for due_s in itertools.takewhile(lambda due_s: due_s < duration_s, poisson_s(rate_hz, seed)):
            await asyncio.sleep(max(0.0, begun + due_s - time.perf_counter()))
            tasks.append(asyncio.create_task(self.send(next(pool), outcome, begun + due_s)))
        await asyncio.sleep(max(0.0, begun + duration_s - time.perf_counter()))
        outcome.duration_s = time.perf_counter() - begun
        counted = len(outcome.answered_ms)
        await asyncio.gather(*tasks)
        # What is answered after the last arrival is served from the queue, and no part of the rate.
        outcome.duration_s *= len(outcome.answered_ms) / max(counted, 1)
        return outcome


async def saturated(url: str, requests: Sequence[bytes], *, concurrency: int, duration_s: float) -> Outcome:
    """`WireLoad.closed` over a connection of its own."""
    async with WireLoad(url) as load:
        return await load.closed(requests, concurrency=concurrency, duration_s=duration_s)
