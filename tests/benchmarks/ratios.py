"""`make bench`: every speed claim as a ratio of two things measured in one run, alternately."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from figures import head, show
from torch import Tensor
from wire_load import saturated, serialised

from rfserve.clients.client import LocalizationClient
from rfserve.export import onnx_file
from rfserve.export.networks.heimdall_net import HeimdallBase, HeimdallNet
from rfserve.export.networks.heimdall_net_pro import HeimdallNetPro
from rfserve.export.networks.iq_encoder import TimeConv
from rfserve.export.networks.receiver_encoder import WIDTH
from rfserve.export.precision import convert
from rfserve.export.publication import Built, Source, build_network, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS, example
from rfserve.export.spec.precision import INT8
from rfserve.export.spec.queueing import Priority
from rfserve.server.process import ServerOptions, TritonServer

THREADS = 2
CONCURRENCY = 8
ROUND_S = 2.0
ROUNDS = 20
WARM_UP = 150
BLOCK = 5
PAUSE_S = 0.25
OLDEST_OPSET, LAYER_NORM_OPSET = 14, 17


def medians_ms(*functions: Callable[[], object], rounds: int) -> list[float]:
    """Median time of each, in ms; the functions take turns, so that noise meets all of them.

    A turn is a block with a pause before it and two runs that do not count: thread pools spin for a while after their
    work, and would take the cores from the next function.
    """
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds // BLOCK):
        for index, function in enumerate(functions):
            time.sleep(PAUSE_S)
            for run in range(BLOCK + 2):
                begun = time.perf_counter()
                function()
                if run >= 2:
                    times[index].append(1e3 * (time.perf_counter() - begun))
    return [statistics.median(t) for t in times]


def heimdall_loop(network: HeimdallBase, iq: Tensor, features: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
    """A HeimdallNet as Heimdall 1.0 runs it: one receiver after the other, the calibration picked by `.item()`.

    Of as many receivers as there are slots: nothing is padded.
    """
    rows = []
    for b in range(iq.shape[0]):
        encoded = [
            network.receiver_encoder(iq[b, i : i + 1], features[b, i : i + 1], torch.tensor([int(ids[b, i].item())]))
            for i in range(iq.shape[1])
        ]
        rows.append(torch.cat(encoded))
    mask = torch.ones(iq.shape[:2], dtype=torch.bool)
    no_pad = [torch.zeros(1, WIDTH)] if isinstance(network, HeimdallNetPro) else []
    joined = [network.set_aggregator(torch.stack(rows), mask, *no_pad), network.geometry_encoder(positions, mask)]
    answer: Tensor = network.position_head(network.global_fusion(torch.cat(joined, -1)))
    return answer


def write(built: Built, model: str, folder: Path, name: str) -> Path:
    file = folder / f"{name}.onnx"
    onnx_file.write(built.module, GRAPHS[model], file)
    return file


def bench_graphs(folder: Path) -> None:
    spec = GRAPHS["heimdall_net"]
    ten, three = example(spec, active=10), example(spec, active=3)
    for order in ("heimdall-1.0", "mbconv"):
        built = build_network(spec, Source(encoder_order=order))
        session = onnx_file.open_session(write(built, "heimdall_net", folder, order), threads=THREADS)
        network = built.module.network
        loop_inputs = [torch.from_numpy(ten[t.name]) for t in spec.inputs[:4]]

        def loop(network: HeimdallNet = network, inputs: list[Tensor] = loop_inputs) -> None:
            with torch.inference_mode():
                heimdall_loop(network, *inputs)

        times = medians_ms(
            loop,
            lambda s=session: onnx_file.run_session(s, ten),
            lambda s=session: onnx_file.run_session(s, three),
            rounds=40,
        )
        detail = f"{times[0]:.2f} / {times[1]:.2f} ms"
        show(f"HeimdallNet {order}: eager loop / ORT, 10 receivers", times[0] / times[1], ">= 8", detail)
        detail = f"{times[2]:.2f} / {times[1]:.2f} ms"
        show(f"HeimdallNet {order}: 3 of 10 / 10 of 10 active", times[2] / times[1], "<= 0.45", detail)
    TimeConv.as_2d = False
    flat = write(build_network(spec, Source()), "heimdall_net", folder, "one_dimensional")
    TimeConv.as_2d = True
    sessions = [onnx_file.open_session(f, threads=THREADS) for f in (flat, folder / "mbconv.onnx")]
    times = medians_ms(*(lambda s=s: onnx_file.run_session(s, ten) for s in sessions), rounds=40)
    detail = f"{times[0]:.2f} / {times[1]:.2f} ms"
    show("true MBConv: 1-D / (1, k) 2-D convolutions", times[0] / times[1], "> 1", detail)
    del sessions


def bench_large(folder: Path) -> None:
    spec = GRAPHS["localization_net"]
    built = build_network(spec, Source(variant="large"))
    session = onnx_file.open_session(write(built, "localization_net", folder, "large"), threads=THREADS)
    inputs = example(spec)
    times = medians_ms(
        lambda: onnx_file.run_eager(built.module, spec, inputs),
        lambda: onnx_file.run_session(session, inputs),
        rounds=15,
    )
    detail = f"{times[0]:.1f} / {times[1]:.1f} ms"
    show("LocalizationNet large: eager / ORT", times[0] / times[1], ">= 2", detail)


def bench_int8(folder: Path) -> None:
    """LocalizationNet in 8 bits against the FP32 graph that `bench_large` left."""
    spec = GRAPHS["localization_net"]
    inputs = example(spec)
    single, int8 = folder / "large.onnx", folder / "large.int8.onnx"
    variant = convert(spec, single, int8, INT8, report=lambda _: None)
    sessions = [onnx_file.open_session(f, threads=THREADS) for f in (int8, single)]
    times = medians_ms(*(lambda s=s: onnx_file.run_session(s, inputs) for s in sessions), rounds=30)
    detail = f"{times[0]:.1f} / {times[1]:.1f} ms"
    show("LocalizationNet large: INT8 / FP32, latency", times[0] / times[1], "<= 0.55", detail)
    detail = f"{int8.stat().st_size / 1e6:.0f} / {single.stat().st_size / 1e6:.0f} MB"
    show("LocalizationNet large: INT8 / FP32, size", variant.size_ratio, "<= 0.30", detail)
    drift, limit = variant.drift, variant.limit
    detail = f"{drift.position_p99_m:.1f} of {limit.position_p99_m:g} m at p99, worst {drift.position_worst_m:.1f} m"
    show("LocalizationNet large: INT8, shift / limit", drift.position_p99_m / limit.position_p99_m, "<= 1", detail)


def bench_opsets(folder: Path) -> None:
    """The opset that is published against older ones; new operators stand for what runtimes had to recognise."""
    for name in ("heimdall_net", "localization_net"):
        spec = GRAPHS[name]
        built = build_network(spec, Source(variant="tiny" if spec.variants else None))
        files = {}
        for opset in (OLDEST_OPSET, LAYER_NORM_OPSET, spec.opset):
            files[opset] = folder / f"{name}.{opset}.onnx"
            onnx_file.write(built.module, replace(spec, opset=opset), files[opset])
        sessions = [onnx_file.open_session(f, threads=THREADS) for f in files.values()]
        inputs = example(spec)
        times = medians_ms(*(lambda s=s, i=inputs: onnx_file.run_session(s, i) for s in sessions), rounds=60)
        for opset, time_ms in list(zip(files, times, strict=True))[:-1]:
            label = f"{name}: opset {opset} / {spec.opset}, latency"
            show(label, time_ms / times[-1], ">= 1", f"{time_ms:.2f} / {times[-1]:.2f} ms")


def bench_server(folder: Path) -> None:
    spec = GRAPHS["heimdall_net"]
    repository = folder / "repository"
    publish(spec, Repository(repository), Source(), version=None, report=lambda _: None)
    # With as many threads as an instance of the server has: what is left is Triton, wire and backend.
    threads = spec.placements["cpu"].intra_op_threads
    session = onnx_file.open_session(repository / "heimdall_net" / "1" / "model.onnx", threads=threads)
    inputs = example(spec, active=10)
    options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    with TritonServer(options) as server, LocalizationClient(server.grpc_url, timeout_s=30) as client:
        # A server that has just started is slower for some hundred requests.
        for _ in range(WARM_UP):
            client.infer("heimdall_net", inputs)
        times = medians_ms(
            lambda: client.infer("heimdall_net", inputs),
            lambda s=session: onnx_file.run_session(s, inputs),
            rounds=150,
        )
        detail = f"{times[0]:.2f} - {times[1]:.2f} ms"
        show("Triton round trip - ORT, ms at p50", times[0] - times[1], "<= 1.5", detail)
        del session
        equal = [example(spec, active=5, seed=i) for i in range(25)]
        mixed = [example(spec, active=c, seed=i) for i, c in enumerate([3, 4, 5, 6, 7] * 5)]
        # Nobody is refused: this is about batches, not about the queue.
        pools = [[serialised("heimdall_net", a, priority=Priority.BULK) for a in pool] for pool in (equal, mixed)]
        rates = [[rate_hz(server.grpc_url, pool) for pool in pools] for _ in range(ROUNDS)]
        same, varied = (statistics.median(r[i] for r in rates) for i in range(2))
        show(
            "mixed / equal receiver counts, throughput at 8",
            statistics.median(mixed_hz / equal_hz for equal_hz, mixed_hz in rates),
            ">= 0.95",
            f"{varied:.0f} / {same:.0f} per s",
        )


def rate_hz(url: str, pool: list[bytes]) -> float:
    """Requests a second with 8 in flight."""
    return asyncio.run(saturated(url, pool, concurrency=CONCURRENCY, duration_s=ROUND_S)).rate_hz


def main() -> None:
    torch.set_num_threads(THREADS)
    head()
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as name:
        folder = Path(name)
        bench_graphs(folder)
        bench_opsets(folder)
        bench_server(folder)
        bench_large(folder)
        bench_int8(folder)


if __name__ == "__main__":
    main()
