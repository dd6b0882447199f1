"""Our `onnxruntime` backend against ONNX Runtime alone, and the placements that two cores have to choose from."""

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from figures import head, show
from google.protobuf import text_format
from served import serving
from wire_load import saturated, serialised

from rfserve.clients.client import LocalizationClient
from rfserve.export import onnx_file, pbtxt
from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS, example
from rfserve.export.spec.queueing import Priority
from rfserve.server.process import ServerOptions, TritonServer

MODEL = "heimdall_net"
SPEC = GRAPHS[MODEL]
PLACEMENT = SPEC.placements["cpu"]
PAUSES_S = (0.0, 0.02)
BLOCKS = 20
PER_BLOCK = 5
WARM_UP = 150
CONCURRENCY = 8
ROUNDS = 8
ROUND_S = 1.5
REQUEST_ROWS = (1, 4)
JOINED_ROWS = (1, 2, 4, 8)
CORES = len(os.sched_getaffinity(0))
# (instances, threads of each, what differs besides); with one instance, requests wait for 500 ms now and then.
PLACEMENTS: Mapping[str, tuple[int, int, Mapping[str, str]]] = {
    "2 instances x 1 thread": (2, 1, {}),
    "2 x 1, without an arena": (2, 1, {"enable_mem_arena": "0"}),
    "2 x 2": (2, 2, {}),
    "2 x 2, threads never spin": (2, 2, {"session.intra_op.allow_spinning": "0"}),
    "3 x 1": (3, 1, {}),
}


@contextmanager
def served(repository: Path) -> Iterator[tuple[TritonServer, LocalizationClient]]:
    """A warm server and a client of it."""
    options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    with TritonServer(options) as server, LocalizationClient(server.grpc_url, timeout_s=60) as client:
        warm_up(client, MODEL, example(SPEC, active=10))
        yield server, client


def warm_up(client: LocalizationClient, model: str, inputs: dict[str, Any]) -> None:
    """A server that has just started is slower for some hundred requests."""
    for _ in range(WARM_UP):
        client.infer(model, inputs)


def variant(base: Path, folder: Path, instances: int, threads: int, parameters: Mapping[str, str]) -> Path:
    """A copy of the repository with another placement in its configuration."""
    shutil.copytree(base, folder)
    for file in (folder / MODEL).rglob("*.pbtxt"):
        config = pbtxt.parse(file.read_text())
        config.instance_group[0].count = instances
        config.parameters["intra_op_thread_count"].string_value = str(threads)
        for name, value in parameters.items():
            config.parameters[name].string_value = value
        file.write_text(text_format.MessageToString(config))
    return folder


def block_ms(call: Callable[[], Any], pause_s: float) -> list[float]:
    """Times of a few calls, each after a pause."""
    times = []
    for _ in range(PER_BLOCK):
        time.sleep(pause_s)
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return times


def computed(server: TritonServer, model: str) -> tuple[int, int]:
    """Nanoseconds in the backend so far, and for how many requests: Triton's own `compute_infer`."""
    found = next(s for s in server.http.statistics() if s["name"] == model)["inference_stats"]["compute_infer"]
    return int(found["ns"]), int(found["count"])


def bench_latency(server: TritonServer, client: LocalizationClient, model: str) -> None:
    """One request: in the backend by Triton's count, and as the client sees it, against the same session here.

    Blocks of calls take turns; before each block is a call that does not count.
    """
    spec = GRAPHS[model]
    threads = spec.placements["cpu"].intra_op_threads
    session = onnx_file.open_session(server.options.repository / model / "1" / "model.onnx", threads=threads)
    inputs = example(spec, active=10)
    warm_up(client, model, inputs)
    for pause_s in PAUSES_S:
        direct: list[float] = []
        within: list[float] = []
        whole: list[float] = []
        for _ in range(BLOCKS):
            onnx_file.run_session(session, inputs)
            direct += block_ms(lambda: onnx_file.run_session(session, inputs), pause_s)
            client.infer(model, inputs)
            begun = computed(server, model)
            whole += block_ms(lambda: client.infer(model, inputs), pause_s)
            spent, count = (b - a for a, b in zip(begun, computed(server, model), strict=True))
            within.append(spent / count / 1e6)
        alone, inside, outside = (statistics.median(t) for t in (direct, within, whole))
        label = f"{model}, one each {1e3 * pause_s:.0f} ms" if pause_s else f"{model}, one after the other"
        show(f"backend - ORT in ms: {label}", inside - alone, "<= 0.5", f"{inside:.2f} - {alone:.2f} ms")
        show(f"round trip - ORT in ms: {label}", outside - alone, "<= 1.5", f"{outside:.2f} - {alone:.2f} ms")


def bench_rows(server: TritonServer, model: str) -> None:
    """What a row of a batch takes against one that runs alone, without a server: how many are worth joining."""
    spec = GRAPHS[model]
    session = onnx_file.open_session(server.options.repository / model / "1" / "model.onnx", threads=1)
    batches = {rows: example(spec, batch=rows, active=10) for rows in JOINED_ROWS}
    times: dict[int, list[float]] = {rows: [] for rows in JOINED_ROWS}
    for _ in range(ROUNDS):
        for rows, inputs in batches.items():
            onnx_file.run_session(session, inputs)
            times[rows] += block_ms(lambda i=inputs: onnx_file.run_session(session, i), PAUSES_S[0])
    alone, *joined = (statistics.median(found) / rows for rows, found in times.items())
    most = spec.worthwhile_rows.get("cpu")
    for rows, each in zip(JOINED_ROWS[1:], joined, strict=True):
        more = f"; joined: {most} at most" if most else ""
        show(f"a row of {rows} / alone, ORT: {model}", each / alone, "", f"{each:.2f} / {alone:.2f} ms{more}")


def direct_rate_hz(sessions: list[Any], inputs: dict[str, Any], runs: int) -> float:
    """Requests a second of sessions that run beside each other, each in a thread of its own, without a server."""
    with ThreadPoolExecutor(len(sessions)) as threads:
        begun = time.perf_counter()
        list(threads.map(lambda s: [onnx_file.run_session(s, inputs) for _ in range(runs)], sessions))
        return runs * len(sessions) / (time.perf_counter() - begun)


class Alone:
    """A graph in ONNX Runtime without a server: a session for each core, or one for all of them."""

    def __init__(self, graph: Path) -> None:
        self._ways = [[onnx_file.open_session(graph, threads=1) for _ in range(CORES)]]
        self._ways.append([onnx_file.open_session(graph, threads=CORES)])
        self._rates: list[list[float]] = [[] for _ in self._ways]

    def turn(self, inputs: dict[str, Any], duration_s: float) -> None:
        """Measure each way once."""
        for sessions, found in zip(self._ways, self._rates, strict=True):
            guess = direct_rate_hz(sessions, inputs, 2)
            found.append(direct_rate_hz(sessions, inputs, max(2, int(duration_s * guess / len(sessions)))))

    @property
    def rate_hz(self) -> float:
        """The better way's median."""
        return max(statistics.median(found) for found in self._rates)


def show_saturated(name: str, target: str, runs: list[tuple[float, float]], alone: Alone, more: str = "") -> None:
    """Requests a second against ONNX Runtime's on the cores that the load generator leaves to the server."""
    rate_hz, cores = (statistics.median(v) for v in zip(*runs, strict=True))
    left = (CORES - cores) / CORES
    detail = f"{rate_hz:.0f} / ({alone.rate_hz:.0f} x {left:.3f}) per s{more}"
    show(f"saturated / ORT alone: {name}", rate_hz / alone.rate_hz / left, target, detail)


def loaded(url: str, request: bytes) -> tuple[float, float]:
    """Answers a second of a saturated server, and how many cores this process took: the server had so many fewer.

    Bulk requests, as none of them may be refused.
    """
    begun_s = time.process_time()
    outcome = asyncio.run(saturated(url, [request], concurrency=CONCURRENCY, duration_s=ROUND_S))
    return outcome.rate_hz, (time.process_time() - begun_s) / outcome.duration_s


def bench_placements(base: Path, folder: Path) -> None:
    """One request's latency and saturated throughput of each placement, asked in turn; and the sessions alone."""
    inputs = example(SPEC, active=10)
    request = serialised(MODEL, inputs, priority=Priority.BULK)
    alone = Alone(base / MODEL / "1" / "model.onnx")
    latencies: dict[str, list[float]] = {name: [] for name in PLACEMENTS}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in PLACEMENTS}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(served(variant(base, folder / str(index), *placement)))
            for index, (name, placement) in enumerate(PLACEMENTS.items())
        }
        for _ in range(ROUNDS):
            alone.turn(inputs, ROUND_S / 4)
            for name, (server, client) in running.items():
                latencies[name] += block_ms(lambda c=client: c.infer(MODEL, inputs), PAUSES_S[-1])
                runs[name].append(loaded(server.grpc_url, request))
        memory_mib = {name: server.memory_bytes() / 2**20 for name, (server, _) in running.items()}
    for name, (instances, threads, others) in PLACEMENTS.items():
        published = (instances, threads, others) == (PLACEMENT.instances, PLACEMENT.intra_op_threads, {})
        more = f"; one request {statistics.median(latencies[name]):.1f} ms; {memory_mib[name]:.0f} MiB"
        label = f"{name}{' (published)' if published else ''}"
        show_saturated(label, ">= 0.9" if published else "", runs[name], alone, more)


def bench_saturated(server: TritonServer, model: str) -> None:
    """A network as published, with requests of one row and of several."""
    for rows in REQUEST_ROWS:
        inputs = example(GRAPHS[model], batch=rows, active=10)
        request = serialised(model, inputs, priority=Priority.BULK)
        alone = Alone(server.options.repository / model / "1" / "model.onnx")
        loaded(server.grpc_url, request)
        runs = []
        for _ in range(ROUNDS):
            alone.turn(inputs, ROUND_S / 4)
            runs.append(loaded(server.grpc_url, request))
        show_saturated(f"{model}, {rows} rows a request" if rows > 1 else model, ">= 0.9", runs, alone)


def main() -> None:
    """Every network as published, then the placements of one of them."""
    with serving(GRAPHS) as server, LocalizationClient(server.grpc_url, timeout_s=60) as client:
        for model in GRAPHS:
            bench_latency(server, client, model)
            bench_rows(server, model)
            bench_saturated(server, model)
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as name:
        folder = Path(name)
        base = folder / "published"
        publish(SPEC, Repository(base), Source(), version=None, report=lambda _: None)
        bench_placements(base, folder)


if __name__ == "__main__":
    head()
    main()
