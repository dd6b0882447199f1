"""What a client's options change, as ratios measured in one run: connections, shared memory, hedging.

python tests/benchmarks/client_ways.py
"""

import asyncio
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

from figures import head, show
from served import serving

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.hedging import Hedging
from rfserve.clients.retries import RetryLimit
from rfserve.export.spec import example, find
from rfserve.server.process import TritonServer

MODELS = ("locate", "mel_features")
SHARED = (("locate", 1), ("locate", 8), ("iq_features", 1), ("heimdall_net", 1), ("mel_features", 1))
ROUNDS = 30
CHUNK = 65536
# Pieces of data on a link that stalls; two calls in a hundred or so meet one.
STALL_EVERY = 150
STALLED_SHARE = 0.9


def medians_ms(*calls: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """The median time of each, taken in turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for times, call in zip(taken, calls, strict=True):
            begun = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(times) for times in taken]


def bench_shared_memory(url: str, admin_key: str) -> None:
    with (
        LocalizationClient(url, timeout_s=60) as plain,
        LocalizationClient(url, timeout_s=60, shared_memory=True, admin_key=admin_key) as shared,
    ):
        for model, batch in SHARED:
            arrays = example(find(model), batch=batch)
            calls = [lambda c=c, m=model, a=arrays: c.infer(m, a) for c in (plain, shared)]
            medians_ms(*calls, rounds=8)
            wire, memory = medians_ms(*calls)
            size = sum(a.nbytes for a in arrays.values()) / 1e6
            label = f"client: {model}, batch {batch} ({size:.1f} MB): shared memory / plain"
            show(label, memory / wire, "", f"{memory:.1f} / {wire:.1f} ms")


def rate(url: str, connections: int, model: str, calls: int) -> float:
    arrays = example(find(model))
    with LocalizationClient(url, timeout_s=60, connections=connections) as client, ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda _: client.infer(model, arrays), range(16)))
        begun = time.perf_counter()
        list(workers.map(lambda _: client.infer(model, arrays), range(calls)))
        return calls / (time.perf_counter() - begun)


def bench_connections(what: str, url: str, model: str, calls: int) -> None:
    rates: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(5):
        for connections, found in rates.items():
            found.append(rate(url, connections, model, calls))
    one, four = (statistics.median(r) for r in rates.values())
    show(f"client: {what}: 4 connections / 1", four / one, "", f"{four:.1f} / {one:.1f} per s")


@contextmanager
def link(server: str, delay_s: Callable[[int], float]) -> Iterator[str]:
    """A way to a server on which piece N of what is sent, in either direction, arrives `delay_s(N)` later."""
    listener = socket.create_server(("127.0.0.1", 0))
    numbers = itertools.count(1)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                time.sleep(delay_s(next(numbers)))
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                host, _, port = server.rpartition(":")
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


async def tail_ms(url: str, hedging: Hedging | None) -> tuple[list[float], str]:
    arrays = example(find("mel_features"))
    limit = RetryLimit(share=0.1, per_second=0.0, burst=10.0)
    async with AsyncLocalizationClient(url, timeout_s=60, hedging=hedging, retry_limit=limit) as client:
        taken = []
        for _ in range(300):
            begun = time.perf_counter()
            await client.infer("mel_features", arrays)
            taken.append(1e3 * (time.perf_counter() - begun))
        return sorted(taken), str(client.counts)


def bench_hedging(stalling: str, direct: str) -> None:
    """Of two servers, one is behind a link that stalls for 200 ms now and then."""
    urls = f"{stalling},{direct}"
    plain, _ = asyncio.run(tail_ms(urls, None))
    hedged, counts = asyncio.run(tail_ms(urls, Hedging()))
    for share in (0.5, 0.98, 0.99):
        at = int(share * len(plain))
        detail = f"{hedged[at]:.1f} / {plain[at]:.1f} ms; {counts}"
        target = "< 1" if share > STALLED_SHARE else ""
        show(f"client: one of two stalls: p{100 * share:.0f} hedged / plain", hedged[at] / plain[at], target, detail)


def main() -> None:
    head()
    with ExitStack() as stack:
        server = stack.enter_context(serving(MODELS))
        first = server.grpc_url
        bench_shared_memory(first, server.options.security.admin_key)
        bench_connections("throughput at 8, mel_features", first, "mel_features", 160)
        bench_connections("throughput at 8, locate", first, "locate", 24)
        far = stack.enter_context(link(first, lambda _: 0.005))
        bench_connections("each 64 kB takes 5 ms more, locate", far, "locate", 24)
        second = stack.enter_context(TritonServer(server.options)).grpc_url
        stalling = stack.enter_context(link(first, lambda number: 0.2 if number % STALL_EVERY == 0 else 0.0))
        bench_hedging(stalling, second)


if __name__ == "__main__":
    main()
