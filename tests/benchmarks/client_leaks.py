"""Does the client leak? Resident memory, open files and threads of this process over many calls, and their slope.

    python tests/benchmarks/client_leaks.py                       # 100,000 calls, with a server of its own
    python tests/benchmarks/client_leaks.py --calls 2000 --url HOST:PORT

One call in five is an inference of `mel_features`, the cheapest model, blocking and asynchronous in turn; one in fifty
asks for a version that is not there; the others ask whether the model is ready. `--late` adds deadlines that are too
short, and hedges: calls that nobody waits for, and that are not cancelled (see `rfserve.clients.late_calls`).

Ends with 1 when something grew after the first quarter, which is warm-up.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from figures import head, show

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import RequestError
from rfserve.clients.hedging import Hedging
from rfserve.export.spec import example, find
from rfserve.export.spec.queueing import Priority
from rfserve.server import process_group
from rfserve.server.process import ServerOptions, TritonServer

MODEL = "mel_features"
THREADS = 4
ROUNDS = 40
# Pages of a heap move by this much without a leak.
NOISE_MIB = 4.0
NOISE_MIB_PER_CALL = 1e-4
MIB = 2**20


def state() -> dict[str, int]:
    return {
        "memory": process_group.memory_bytes(os.getpid())["Pss"],
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "python threads": threading.active_count(),
    }


@contextmanager
def own_server() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as folder:
        # Torch would weigh a hundred times what is measured here.
        write = [sys.executable, "-m", "rfserve.export.cli", "write", MODEL, "--repository", folder]
        subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        options = ServerOptions(repository=Path(folder), grpc_port=0, http_port=0, metrics_port=0)
        with TritonServer(options) as server:
            yield server.grpc_url


def blocking(url: str, calls: int, arrays: dict[str, np.ndarray], *, late: bool) -> None:
    """A client of its own each time, as programs make them."""
    with (
        LocalizationClient(url, timeout_s=30, model=MODEL, connections=2, priority=Priority.BULK) as client,
        LocalizationClient(url, timeout_s=0.001, model=MODEL) as hasty,
        ThreadPoolExecutor(THREADS) as workers,
    ):

        def one(i: int) -> None:
            try:
                if i % 100 == 7 or (i % 100 == 57 and not late):
                    client.infer(MODEL, arrays, version="99")
                elif i % 100 == 57 and late:
                    hasty.infer(MODEL, arrays)
                elif i % 5 == 0:
                    client.infer(MODEL, arrays)
                else:
                    client.is_ready()
            except RequestError:
                if i % 50 != 7:
                    raise

        list(workers.map(one, range(calls)))


async def asynchronous(url: str, calls: int, arrays: dict[str, np.ndarray], *, late: bool) -> None:
    hedging = Hedging(after_s=0.01) if late else None
    async with AsyncLocalizationClient(
        url, timeout_s=30, model=MODEL, hedging=hedging, priority=Priority.BULK
    ) as client:
        left = iter(range(calls))

        async def worker() -> None:
            for i in left:
                try:
                    if i % 50 == 7:
                        await client.infer(MODEL, arrays, version="99")
                    elif i % 5 == 0:
                        await client.infer(MODEL, arrays)
                    else:
                        await client.wait_ready(30)
                except RequestError:
                    if i % 50 != 7:
                        raise

        await asyncio.gather(*(worker() for _ in range(THREADS)))


def run(url: str, calls: int, *, late: bool) -> int:
    arrays = example(find(MODEL))
    each = max(1, calls // ROUNDS)
    seen, begun = [state()], time.monotonic()
    for number in range(ROUNDS):
        if number % 2:
            asyncio.run(asynchronous(url, each, arrays, late=late))
        else:
            blocking(url, each, arrays, late=late)
        seen.append(state())
    took_s = time.monotonic() - begun
    warm = seen[ROUNDS // 4 :]
    memory = [s["memory"] / MIB for s in warm]
    # The second half of what is warm: a heap that fragments still settles.
    half = memory[len(memory) // 2 :]
    growth_mib = statistics.mean(half[-3:]) - statistics.mean(half[:3])
    allowed_mib = NOISE_MIB + NOISE_MIB_PER_CALL * each * len(half)
    detail = f"{growth_mib:+.1f} / {allowed_mib:.0f} MiB, of {memory[0]:.0f} after warm-up; "
    detail += f"{each * ROUNDS} calls in {took_s:.0f} s"
    show("client: growth of memory / what noise may be", growth_mib / allowed_mib, "<= 1", detail)
    more = 0
    for name in seen[0].keys() - {"memory"}:
        counts = [s[name] for s in warm]
        # The least of the last rounds over the most of the first: what is there between two rounds is no leak.
        found = max(0, min(counts[-3:]) - max(counts[:3]))
        show(f"client: {name} that are left", found, "0", f"{counts[0]} after warm-up, {counts[-1]} at the end")
        more += found
    return 1 if more or growth_mib > allowed_mib else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--url", help="a server that serves mel_features; default: one is started")
    parser.add_argument("--late", action="store_true", help="have late calls and hedges as well")
    options = parser.parse_args()
    head()
    with ExitStack() as stack:
        url = options.url or stack.enter_context(own_server())
        return run(url, options.calls, late=options.late)


if __name__ == "__main__":
    raise SystemExit(main())
