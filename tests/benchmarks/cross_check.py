"""Whether `rfserve-loadtest` measures what anybody else would: one operating point, by turns with a plain script.

The other way shares nothing with the load test but the requests' tensors: `grpc.aio` with the stub of tritonclient's
generated protobuf, asyncio instead of gevent, a Poisson schedule of its own (exponential gaps), and percentiles of its
own. Both count from when a request was due, and each runs in processes of its own.

    python tests/benchmarks/cross_check.py --url 127.0.0.1:8001 --model heimdall_net
"""

import argparse
import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

from rfserve.export.spec import example, find

PERCENTILES = (50, 95, 99)
WARM_UP_S, TIMEOUT_S, DISTINCT = 1.0, 10.0, 16
GOAL_PERCENT = 10.0


def all_receivers(model: str) -> int | None:
    """As many active ones as there may be, so that every request is the same work; None for a model without them."""
    return next((a.maximum for a in find(model).axes if a.name == "receivers"), None)


def plain_requests(model: str) -> list[service_pb2.ModelInferRequest]:
    """Requests with the spec's example tensors, put into protobuf by hand."""
    requests = []
    for seed in range(DISTINCT):
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, array in example(find(model), seed=seed, active=all_receivers(model)).items():
            request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        requests.append(request)
    return requests


async def plain_ms(url: str, model: str, rate_hz: float, duration_s: float, seed: int) -> tuple[list[float], int]:
    """Latencies of the requests due after the warm-up in ms, and how many failed."""
    requests = plain_requests(model)
    rng = random.Random(seed)
    latencies_ms: list[float] = []
    failed = 0
    async with grpc.aio.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for request in requests:
            await stub.ModelInfer(request, timeout=TIMEOUT_S)

        async def send(request: service_pb2.ModelInferRequest, due: float, counts: bool) -> None:
            nonlocal failed
            try:
                await stub.ModelInfer(request, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError:
                failed += counts
                return
            if counts:
                latencies_ms.append(1e3 * (time.monotonic() - due))

        tasks = []
        begun = due = time.monotonic()
        while (due := due + rng.expovariate(rate_hz)) < begun + WARM_UP_S + duration_s:
            await asyncio.sleep(due - time.monotonic())
            counts = due >= begun + WARM_UP_S
            tasks.append(asyncio.create_task(send(requests[len(tasks) % DISTINCT], due, counts)))
        await asyncio.gather(*tasks)
    return latencies_ms, failed


def plain(url: str, model: str, rate_hz: float, duration_s: float, seed: int) -> tuple[list[float], int]:
    """The same in a process of its own, as the load test has one."""
    given = [url, model, str(rate_hz), str(duration_s), str(seed)]
    command = [sys.executable, __file__, "--as-generator", *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    return found["latencies_ms"], found["failed"]


class LoadTest:
    """The load test's own generator, started once; use as a context manager."""

    def __init__(self, url: str, model: str, rate_hz: float, duration_s: float) -> None:
        # Here, so that the other way's process loads nothing of it.
        from rfserve.loadtest.endpoint import Endpoint
        from rfserve.loadtest.engine import Engine
        from rfserve.loadtest.plan import Mix, Phase, Plan, Stream

        self._engine, self._endpoint = Engine(), Endpoint(url=url)
        active = all_receivers(model)
        mix = Mix(receivers=() if active is None else (active,), distinct=DISTINCT)
        stream = Stream(model=model, rate_hz=rate_hz, mix=mix)
        phase = Phase(name="point", duration_s=duration_s, streams=(stream,))
        self._plan = lambda seed: Plan(
            name="cross-check", device="cpu-2core", phases=(phase,), repetitions=1, warm_up_s=WARM_UP_S, seed=seed
        )

    def __enter__(self) -> "LoadTest":
        self._engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop()

    def measure(self, seed: int) -> tuple[list[float], int]:
        """Latencies in ms, and how many failed."""
        (found,) = self._engine.run(self._plan(seed), self._endpoint).measurements
        return [1e3 * s for s in found.latency_s.tolist()], found.failed


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)] if values else math.nan


def compare(url: str, model: str, *, rate_hz: float, duration_s: float, rounds: int) -> dict[int, float]:
    """Print both ways' percentiles of every round and of all; by how many per cent they differ, by percentile.

    That is the median over the rounds: what else the machine does for a while meets one turn, and not the next.
    """
    ways: dict[str, list[list[float]]] = {"rfserve-loadtest": [], "plain grpc.aio": []}
    print(f"{model} at {rate_hz:g}/s, {rounds} rounds of {duration_s:g} s by turns; p50, p95, p99 in ms")
    with LoadTest(url, model, rate_hz, duration_s) as load:
        for turn in range(rounds):
            measured = (load.measure(turn + 1), plain(url, model, rate_hz, duration_s, turn + 1))
            for (name, runs), (latencies_ms, failed) in zip(ways.items(), measured, strict=True):
                runs.append(latencies_ms)
                print(f"  round {turn + 1}  {name:18} {_figures(latencies_ms)}  failed {failed}", flush=True)
    for name, runs in ways.items():
        print(f"  all      {name:18} {_figures([v for run in runs for v in run])}")
    pairs = list(zip(*ways.values(), strict=True))
    return {
        p: 100 * (statistics.median(percentile(ours, p) / percentile(theirs, p) for ours, theirs in pairs) - 1)
        for p in PERCENTILES
    }


def _figures(latencies_ms: Sequence[float]) -> str:
    found = "  ".join(f"{percentile(latencies_ms, p):8.2f}" for p in PERCENTILES)
    return f"{found}  of {len(latencies_ms)}"


def main() -> int:
    """0 when both agree within the goal, 1 when not."""
    if sys.argv[1:2] == ["--as-generator"]:
        url, model, rate_hz, duration_s, seed = sys.argv[2:]
        latencies_ms, failed = asyncio.run(plain_ms(url, model, float(rate_hz), float(duration_s), int(seed)))
        print(json.dumps({"latencies_ms": latencies_ms, "failed": failed}))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8001")
    parser.add_argument("--model", default="heimdall_net")
    parser.add_argument("--rate-hz", type=float, default=20.0)
    parser.add_argument("--duration-s", type=float, default=10.0, help="of each turn (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=7, help="of A B (default: %(default)s)")
    options = parser.parse_args()
    found = compare(
        options.url, options.model, rate_hz=options.rate_hz, duration_s=options.duration_s, rounds=options.rounds
    )
    print(
        "difference (median of the rounds) "
        + ", ".join(f"p{p} {d:+.1f} %" for p, d in found.items())
        + f" (goal: {GOAL_PERCENT:g} %)"
    )
    return 0 if all(abs(d) <= GOAL_PERCENT for d in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
