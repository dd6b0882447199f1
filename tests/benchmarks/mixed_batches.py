"""Mean batch size, from the server's own statistics, of mixed requests against equal ones at the same concurrency."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import head, show
from served import serving
from wire_load import WireLoad, serialised

from rfserve.clients.alignment import align
from rfserve.clients.client import LocalizationClient
from rfserve.clients.observation import Observation
from rfserve.clients.recording import read_event
from rfserve.clients.request import tensors
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.export.spec import example, find
from rfserve.export.spec.queueing import Priority
from rfserve.server.http_api import HttpApi
from rfserve.server.process import TritonServer

GRAPHS = ("heimdall_net", "mel_features", "iq_features")
ROUNDS, DURATION_S, CONCURRENCY, POOL = 5, 1.5, 6, 12
COUNTS = (1, 3, 5, 7, 9)
LONG_SAMPLES = (20_000, 30_000, 50_000, 65_536)
SHORT_SAMPLES = (2048, 4096, 8192)

Load = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Rows in an execution on average, and rows a second, of one model."""

    mean_rows: float
    rate_hz: float


async def run(server: TritonServer, load: Load, duration_s: float) -> dict[str, Batches]:
    """Each model's requests, with the same number in flight, all at once."""
    before = {name: _counts(server.http, name) for name in GRAPHS}
    async with WireLoad(server.grpc_url) as wire:
        await asyncio.gather(*(wire.closed(r, concurrency=CONCURRENCY, duration_s=duration_s) for r in load.values()))
    found = {}
    for name in GRAPHS:
        rows, executions = (b - a for a, b in zip(before[name], _counts(server.http, name), strict=True))
        if executions:
            found[name] = Batches(mean_rows=rows / executions, rate_hz=rows / duration_s)
    return found


def _counts(http: HttpApi, model: str) -> tuple[int, int]:
    document = http.call(f"/v2/models/{model}/stats").document
    entry = document["model_stats"][-1]
    return int(entry["inference_count"]), int(entry["execution_count"])


def _requests(model: str, arrays: Sequence[Mapping[str, np.ndarray]]) -> list[bytes]:
    # Bulk, so that nothing is refused: a refusal is no batch.
    return [serialised(model, dict(a), priority=Priority.BULK) for a in arrays]


def _examples(model: str, active: Sequence[int], samples: Sequence[int] | None = None) -> list[bytes]:
    axis = next((a.name for a in find(model).axes if a.name.endswith("samples")), None)
    return _requests(
        model,
        [
            example(
                find(model),
                seed=i,
                active=active[i % len(active)],
                sizes={} if samples is None or axis is None else {axis: samples[i % len(samples)]},
            )
            for i in range(POOL)
        ],
    )


def recordings_cut(samples: Sequence[int], receivers: Sequence[int]) -> list[bytes]:
    """Requests for `locate` as the client makes them of recordings that are longer than the served length."""
    events = []
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as name:
        for i in range(POOL):
            event = SyntheticEvent(
                receivers=receivers[i % len(receivers)], samples=samples[i % len(samples)], seed=i + 1
            )
            recordings = read_event([write(event, Path(name) / str(i))])
            events.append(tensors(find("locate"), [align(recordings)]))
    return _requests("locate", events)


def receiver_counts() -> tuple[str, Load, Load]:
    """Different numbers of receivers, from clients that pad them to one shape."""
    return "heimdall_net", {"a": _examples("heimdall_net", [5])}, {"a": _examples("heimdall_net", COUNTS)}


def receiver_counts_of_an_ensemble() -> tuple[str, Load, Load]:
    """The same through `locate`: what its first step joins."""
    return "iq_features", {"a": _examples("locate", [5])}, {"a": _examples("locate", COUNTS)}


def recordings() -> tuple[str, Load, Load]:
    """Recordings of different lengths and receivers, as the client sends them."""
    equal = recordings_cut(LONG_SAMPLES[-1:], [4])
    return "iq_features", {"a": equal}, {"a": recordings_cut(LONG_SAMPLES, [3, 4, 5, 6, 7])}


def models_at_once() -> tuple[str, Load, Load]:
    """One model alone, and beside another with as many requests in flight."""
    mixed = {"a": _examples("heimdall_net", COUNTS), "b": _examples("mel_features", [1])}
    return "heimdall_net", {"a": _examples("heimdall_net", [5])}, mixed


# For each figure: the model that is looked at, the equal requests, and the mixed ones.
CASES: Mapping[str, Callable[[], tuple[str, Load, Load]]] = {
    "receiver counts": receiver_counts,
    "receiver counts, through locate": receiver_counts_of_an_ensemble,
    "lengths and receiver counts, as recordings": recordings,
    "models at once": models_at_once,
}


def short_case() -> tuple[str, Load, list[Load]]:
    """Recordings shorter than the served length keep theirs: zeros would be signal to the front end."""
    mixed = {"a": _examples("iq_features", [5], SHORT_SAMPLES)}
    return "iq_features", mixed, [{"a": _examples("iq_features", [5], [n])} for n in SHORT_SAMPLES]


def events_of(lengths: Sequence[int], count: int) -> list[list[Observation]]:
    """Noise at five receivers, of the lengths in turn."""
    rng = np.random.default_rng(1)
    places = [(45.0 + 0.01 * i, 7.5 + 0.013 * i * i) for i in range(5)]
    return [
        [
            Observation(
                iq=(0.1 * rng.standard_normal((lengths[i % len(lengths)], 2), np.float32)).view(np.complex64)[:, 0],
                sample_rate_hz=1e6,
                center_frequency_hz=433e6,
                latitude_deg=latitude,
                longitude_deg=longitude,
                receiver_id=number,
            )
            for number, (latitude, longitude) in enumerate(places)
        ]
        for i in range(count)
    ]


Locate = Callable[[LocalizationClient, Sequence[Sequence[Observation]]], object]


def as_they_come(client: LocalizationClient, events: Sequence[Sequence[Observation]]) -> object:
    """Each event when the one before it is answered."""
    with ThreadPoolExecutor(CONCURRENCY) as workers:
        return list(workers.map(client.locate, events))


def grouped(client: LocalizationClient, events: Sequence[Sequence[Observation]]) -> object:
    """As `rfserve-client batch` sends them."""
    return [outcome.require() for outcome in client.locate_many(events, concurrency=CONCURRENCY)]


def batches_of_the_client(server: TritonServer, events: Sequence[Sequence[Observation]], locate: Locate) -> Batches:
    """What `iq_features` makes of events that the client sends, with as many in flight as always."""
    with LocalizationClient(server.grpc_url, timeout_s=30, priority=Priority.BULK) as client:
        before, begun = _counts(server.http, "iq_features"), time.perf_counter()
        locate(client, events)
        duration_s = time.perf_counter() - begun
    rows, executions = (b - a for a, b in zip(before, _counts(server.http, "iq_features"), strict=True))
    return Batches(mean_rows=rows / executions, rate_hz=rows / duration_s)


def client_ratios(server: TritonServer, *, rounds: int, count: int) -> dict[str, tuple[float, float, float]]:
    """Mean rows of three short lengths and of one at a time, and the ratio of their rates; as they come and grouped."""
    mixed, each = events_of(SHORT_SAMPLES, count), [events_of([n], count // 3) for n in SHORT_SAMPLES]
    found = {}
    for name, locate in {"as they come": as_they_come, "grouped": grouped}.items():
        rows, same, rates = [], [], []
        for _ in range(rounds):
            varied = batches_of_the_client(server, mixed, locate)
            alone = [batches_of_the_client(server, events, locate) for events in each]
            rows.append(varied.mean_rows)
            same.append(statistics.mean(b.mean_rows for b in alone))
            rates.append(varied.rate_hz * sum(1 / b.rate_hz for b in alone) / len(alone))
        found[name] = (statistics.median(rows), statistics.median(same), statistics.median(rates))
    return found


def ratio(server: TritonServer, model: str, equal: Load, mixed: Load, *, rounds: int, duration_s: float) -> list[float]:
    """Mean batch of mixed and of equal requests, by turns; medians."""
    found: list[list[float]] = [[], []]
    for _ in range(rounds):
        for index, load in enumerate((mixed, equal)):
            found[index].append(asyncio.run(run(server, load, duration_s))[model].mean_rows)
    return [statistics.median(f) for f in found]


def main() -> None:
    """Print every figure."""
    with serving((*GRAPHS, "locate")) as server:
        for title, make in CASES.items():
            model, equal, mixed = make()
            varied, same = ratio(server, model, equal, mixed, rounds=ROUNDS, duration_s=DURATION_S)
            show(f"mixed {title}: batch / equal", varied / same, ">= 0.8", f"{varied:.2f} / {same:.2f} rows")
        model, mixed, each = short_case()
        batches, rates, alone = [], [], []
        for _ in range(ROUNDS):
            found = asyncio.run(run(server, mixed, DURATION_S))[model]
            batches.append(found.mean_rows)
            rates.append(found.rate_hz)
            alone.append([asyncio.run(run(server, load, DURATION_S))[model] for load in each])
        mean_rows = statistics.median(b.mean_rows for round_ in alone for b in round_)
        # The same number of each length: the time of one of each is the sum of theirs.
        rate_hz = statistics.median(len(r) / sum(1 / b.rate_hz for b in r) for r in alone)
        detail = f"{statistics.median(batches):.2f} / {mean_rows:.2f} rows; cannot be padded"
        show("three lengths of short recordings: batch / equal", statistics.median(batches) / mean_rows, "-", detail)
        detail = f"{statistics.median(rates):.0f} / {rate_hz:.0f} rows per s"
        show(
            "three lengths of short recordings: throughput / equal",
            statistics.median(rates) / rate_hz,
            ">= 0.8",
            detail,
        )
        for name, (rows, same, rate) in client_ratios(server, rounds=ROUNDS, count=120).items():
            title = f"three lengths of short recordings, by the client, {name}"
            wanted = ">= 0.8" if name == "grouped" else "-"
            show(f"{title}: batch / equal", rows / same, wanted, f"{rows:.2f} / {same:.2f} rows, rate {rate:.2f}")


if __name__ == "__main__":
    head()
    main()
