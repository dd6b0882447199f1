"""What a server gains from threads that take no CPU on waking (SCHED_BATCH), against one whose threads do.

Besides latency and throughput: how many requests of small bursts are refused although the server has nothing to do,
because Triton's batcher missed that an instance is free.
"""

import asyncio
import os
import statistics
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from figures import head, show
from served import publish_untrained, with_steps
from wire_load import Outcome, WireLoad, serialised

from rfserve.export.repository import Repository
from rfserve.export.spec import example, find
from rfserve.server import process_group
from rfserve.server.process import ServerOptions, TritonServer

MODELS = ("heimdall_net", "mel_features", "iq_features", "localization_net", "locate")
ROUNDS, LOAD_S, BURSTS_S = 8, 1.5, 3.0
SATURATED, BURST = 8, 4


@dataclass(kw_only=True)
class Found:
    """What one server did with one model, a value for each round; and its bursts' requests."""

    latency_ms: list[float] = field(default_factory=list)
    rate_hz: list[float] = field(default_factory=list)
    bursts: Outcome = field(default_factory=Outcome)

    @property
    def refused(self) -> int:
        """Requests of bursts that were refused."""
        return len(self.bursts.refused_ms)

    @property
    def sent(self) -> int:
        """Requests of bursts."""
        return self.refused + len(self.bursts.answered_ms)


def preempt_on_waking(server: TritonServer) -> None:
    """Give every thread of the server and its stubs Linux's default policy."""
    for pid in [server.pid, *(s.pid for s in process_group.stubs(server.pid))]:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


async def turn(url: str, request: bytes, found: Found) -> None:
    """One request after the other, then bursts with nothing between them, then as many as the server takes."""
    async with WireLoad(url) as wire:
        one = await wire.closed([request], concurrency=1, duration_s=LOAD_S)
        found.latency_ms.append(one.answered_at_ms(50))
        until = time.monotonic() + BURSTS_S
        while time.monotonic() < until:
            await asyncio.gather(*(wire.send(request, found.bursts) for _ in range(BURST)))
        many = await wire.closed([request], concurrency=SATURATED, duration_s=LOAD_S)
        found.rate_hz.append(many.rate_hz)


def main() -> None:
    """Print the ratios, model by model."""
    with ExitStack() as running:
        repository = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="rfserve-bench-")))
        publish_untrained(with_steps(MODELS), Repository(repository))
        options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
        kept, other = (running.enter_context(TritonServer(options)) for _ in range(2))
        preempt_on_waking(other)
        for model in MODELS:
            request = serialised(model, example(find(model)))
            for server in (kept, other):
                asyncio.run(turn(server.grpc_url, request, Found()))
            ours, default = Found(), Found()
            for number in range(ROUNDS):
                pairs = [(kept, ours), (other, default)]
                for server, found in pairs if number % 2 else reversed(pairs):
                    asyncio.run(turn(server.grpc_url, request, found))
            report(model, ours, default)


def report(model: str, ours: Found, default: Found) -> None:
    """Ratios of this one, the default policy being 1."""
    one, before = (statistics.median(f.latency_ms) for f in (ours, default))
    show(f"{model}: SCHED_BATCH / default, p50 of one request", one / before, "<= 1", f"{one:.2f} / {before:.2f} ms")
    rate, slower = (statistics.median(f.rate_hz) for f in (ours, default))
    show(f"{model}: SCHED_BATCH / default, answers at 8", rate / slower, ">= 1", f"{rate:.0f} / {slower:.0f} per s")
    share, worse = (1e4 * f.refused / f.sent for f in (ours, default))
    detail = f"{ours.refused} of {ours.sent} / {default.refused} of {default.sent}"
    show(f"{model}: idle, yet refused, in 10,000", share, f"< {worse:.1f}", detail)


if __name__ == "__main__":
    head()
    main()
