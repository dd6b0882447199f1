"""What late calls do to a server: cancelled by gRPC when their deadline passes, or left alone as our clients do it.

Deadlines are spread around the time that an answer takes, eight requests at a time, so that most pass when the request
is executed or is about to be answered. A server that ended, or does not answer any more, is started anew.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from figures import head, show
from served import BriefServer, publish_untrained, with_steps
from wire_load import Outcome, WireLoad, serialised

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.errors import DeadlineExceeded, RequestError, ServerUnavailable
from rfserve.clients.retries import RetryLimit
from rfserve.export.repository import Repository
from rfserve.export.spec import example, find
from rfserve.server.process import ServerOptions

MODEL = "locate"
IN_FLIGHT, EACH, WAY_S = 8, 1000, 60.0
ONCE = RetryLimit(share=0, per_second=0, burst=0)

Way = Callable[[str, float, "Fate", Iterator[int]], Awaitable[None]]


@dataclass(kw_only=True)
class Fate:
    """What became of one way's requests and servers."""

    expired: int = 0
    others: int = 0
    ended: int = 0
    hung: int = 0
    lost: bool = False

    def note(self, lost: bool) -> bool:
        """Whether the server is lost by now."""
        self.lost |= lost
        return self.lost


async def cancelled(url: str, deadline_s: float, fate: Fate, turns: Iterator[int]) -> None:
    """Raw gRPC calls with a deadline, as any client makes them."""
    request = serialised(MODEL, example(find(MODEL)))
    async with WireLoad(url, deadline_s=deadline_s) as wire:
        for _ in turns:
            found = Outcome()
            await wire.send(request, found)
            reason = "".join(found.reasons)
            fate.expired += "DEADLINE" in reason
            fate.others += "DEADLINE" not in reason
            if fate.note("UNAVAILABLE: " in reason):
                break


async def left(url: str, deadline_s: float, fate: Fate, turns: Iterator[int]) -> None:
    """The same through the client, which leaves late calls to the server."""
    arrays = example(find(MODEL))
    async with AsyncLocalizationClient(url, timeout_s=deadline_s, model=MODEL, retry_limit=ONCE) as client:
        for _ in turns:
            problem = None
            try:
                await client.infer(MODEL, arrays)
            except RequestError as error:
                problem = error
            fate.expired += isinstance(problem, DeadlineExceeded)
            fate.others += not isinstance(problem, DeadlineExceeded)
            if fate.note(isinstance(problem, ServerUnavailable)):
                break


async def in_flight(way: Way, url: str, usual_s: float, fate: Fate) -> None:
    """Half to one and a half times as long as an answer takes, a deadline for each of those in flight."""
    turns = iter(range(EACH))
    deadlines_s = [usual_s * (0.5 + i / (IN_FLIGHT - 1)) for i in range(IN_FLIGHT)]
    await asyncio.gather(*(way(url, deadline_s, fate, turns) for deadline_s in deadlines_s))


async def answer_s(url: str) -> float:
    """How long an answer takes in seconds, at the median, with two in flight."""
    async with WireLoad(url) as wire:
        found = await wire.closed([serialised(MODEL, example(find(MODEL)))], concurrency=2, duration_s=3.0)
    return statistics.median(found.answered_ms) / 1e3


def run(way: Way, options: ServerOptions) -> Fate:
    """Send for `WAY_S`; each time a server is lost, go on with another."""
    fate, begun = Fate(), time.monotonic()
    while time.monotonic() - begun < WAY_S:
        with BriefServer(options) as server:
            usual_s = asyncio.run(answer_s(server.grpc_url))
            while time.monotonic() - begun < WAY_S and not fate.lost:
                asyncio.run(in_flight(way, server.grpc_url, usual_s, fate))
                gone = server.wait(0.2) is not None
                hangs = not gone and not server.http.server_live()
                fate.lost = gone or hangs
                fate.ended += gone
                fate.hung += hangs
        fate.lost = False
    return fate


def main() -> None:
    """Print the servers lost for a thousand deadlines that passed."""
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as folder:
        publish_untrained(with_steps([MODEL]), Repository(Path(folder)))
        options = ServerOptions(repository=Path(folder), grpc_port=0, http_port=0, metrics_port=0)
        for name, way, target in (("cancelled by gRPC", cancelled, "-"), ("left by the client", left, "0")):
            fate = run(way, options)
            detail = f"{fate.expired} passed, {fate.others} did not; {fate.ended} servers ended, {fate.hung} hung"
            lost = 1e3 * (fate.ended + fate.hung) / max(fate.expired, 1)
            show(f"{MODEL}: servers lost for 1000 late calls, {name}", lost, target, detail)


if __name__ == "__main__":
    head()
    main()
