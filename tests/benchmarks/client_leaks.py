"""Does the client leak? Resident memory, open files and threads of this process over many calls, and their slope.

    python tests/benchmarks/client_leaks.py                       # 100,000 calls, with a server of its own
    python tests/benchmarks/client_leaks.py --calls 2000 --url HOST:PORT

One call in five is an inference of `mel_features`, the cheapest model, blocking and asynchronous in turn; one in fifty
asks for a version that is not there; the others ask whether the model is ready. `--cancelling` adds deadlines that are
too short, and hedges whose losers are cancelled: a run of that ended tritonserver 24.10 with a segmentation fault, as
cancelled calls race with their answers there (see `rfserve.clients.hedging`).

Ends with 1 when something grew after the first quarter, which is warm-up.
"""

import argparse
import asyncio
import json
import os
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

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import RequestError
from rfserve.clients.hedging import Hedging
from rfserve.export.spec import example, find
from rfserve.server.process import ServerOptions, TritonServer

MODEL = "mel_features"
THREADS = 4
ROUNDS = 40
# Pages of a heap move by this much without a leak.
NOISE_BYTES = 4 * 2**20
NOISE_BYTES_PER_CALL = 100.0


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def state() -> dict[str, int]:
    return {
        "rss": resident_bytes(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
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


def blocking(url: str, calls: int, arrays: dict[str, np.ndarray], *, cancelling: bool) -> None:
    """A client of its own each time, as programs make them."""
    with (
        LocalizationClient(url, timeout_s=30, model=MODEL, connections=2) as client,
        LocalizationClient(url, timeout_s=0.001, model=MODEL) as hasty,
        ThreadPoolExecutor(THREADS) as workers,
    ):

        def one(i: int) -> None:
            try:
                if i % 100 == 7 or (i % 100 == 57 and not cancelling):
                    client.infer(MODEL, arrays, version="99")
                elif i % 100 == 57 and cancelling:
                    hasty.infer(MODEL, arrays)
                elif i % 5 == 0:
                    client.infer(MODEL, arrays)
                else:
                    client.is_ready()
            except RequestError:
                assert i % 50 == 7

        list(workers.map(one, range(calls)))


async def asynchronous(url: str, calls: int, arrays: dict[str, np.ndarray], *, cancelling: bool) -> None:
    hedging = Hedging(after_s=0.01) if cancelling else None
    async with AsyncLocalizationClient(url, timeout_s=30, model=MODEL, hedging=hedging) as client:
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
                    assert i % 50 == 7

        await asyncio.gather(*(worker() for _ in range(THREADS)))


def run(url: str, calls: int, *, cancelling: bool) -> int:
    arrays = example(find(MODEL))
    each = max(1, calls // ROUNDS)
    seen, begun = [state()], time.monotonic()
    for number in range(ROUNDS):
        if number % 2:
            asyncio.run(asynchronous(url, each, arrays, cancelling=cancelling))
        else:
            blocking(url, each, arrays, cancelling=cancelling)
        seen.append(state())
    took_s = time.monotonic() - begun
    warm = seen[ROUNDS // 4 :]
    done = each * np.arange(len(warm))
    report: dict[str, object] = {"calls": each * ROUNDS, "seconds": round(took_s, 1)}
    grew = []
    for name in seen[0]:
        values = np.array([s[name] for s in warm], float)
        slope = float(np.polyfit(done, values, 1)[0])
        report[name] = {"start": seen[0][name], "warm": warm[0][name], "end": seen[-1][name], "slope": slope}
        if name == "rss":
            # The second half of what is warm: a heap that fragments still settles.
            half = values[len(values) // 2 :]
            growth = float(half[-3:].mean() - half[:3].mean())
            report[name]["growth"] = growth
            if growth > NOISE_BYTES + NOISE_BYTES_PER_CALL * each * len(half):
                grew.append(name)
        elif values[-3:].min() > values[:3].max():
            grew.append(name)
    for name, value in report.items():
        print(f"{name:16} {json.dumps(value)}")
    print(f"{'grew':16} {', '.join(grew) or 'nothing'}")
    return 1 if grew else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--url", help="a server that serves mel_features; default: one is started")
    parser.add_argument("--cancelling", action="store_true", help="cancel calls too: it can end the server")
    options = parser.parse_args()
    with ExitStack() as stack:
        url = options.url or stack.enter_context(own_server())
        return run(url, options.calls, cancelling=options.cancelling)


if __name__ == "__main__":
    raise SystemExit(main())
