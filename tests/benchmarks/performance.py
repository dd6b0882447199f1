"""Each model and precision by every way of running it, as JSON that the README's table is made from.

    python tests/benchmarks/performance.py     # all, into loadtest/results/cpu-<N>core.json
    python tests/benchmarks/performance.py --models heimdall_net --graphs FOLDER --prepare    # publish only

Rounds in which others took more than a tenth of a core do not count and are made again: keep the machine quiet.

The ways of one model, with all its precisions, take turns in every round of one run, so that what else the machine does
meets all of them. `--graphs` keeps what was published from one call to the next.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path

import torch
from bystanders import Bystanders
from figures import show
from ratios import heimdall_loop
from wire_load import saturated, serialised

from rfserve.clients.client import LocalizationClient
from rfserve.export import onnx_file
from rfserve.export.manifest import GRAPH_FILE
from rfserve.export.networks.heimdall_net import HeimdallBase
from rfserve.export.networks.iq_encoder import HEIMDALL_1_0, MBCONV
from rfserve.export.publication import Built, Source, build_network, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS, ModelSpec, example
from rfserve.export.spec.precision import FP32, INT8
from rfserve.export.spec.queueing import Priority
from rfserve.loadtest.machine import describe
from rfserve.loadtest.measurement import Machine
from rfserve.loadtest.performance import DIRECT, EAGER, INSTANCE, LOOP, TOOLS, TRITON, Case, Performance
from rfserve.server.process import ServerOptions, TritonServer

RESULTS = Path(__file__).parents[2] / "loadtest" / "results"
ROUNDS = 9
# A block is long enough for its median, and short enough that a round is one moment of the machine.
BLOCK_S, FEWEST, MOST = 0.35, 3, 25
PAUSE_S = 0.2
# A saturated round ends when the last of its requests is answered: it is so many times as long as one of them.
ROUND_S, ROUND_REQUESTS = 2.0, 20
IN_FLIGHT = 8
# What others may take of the machine in a round that counts, and how many such rounds a result needs.
MOST_OTHERS_CORES = 0.1
FEWEST_ROUNDS = 5
WARM_UP = 150
WARM_UP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model in one size and order, and the precisions that a CPU serves it in."""

    model: str
    variant: str | None = None
    encoder_order: str | None = None
    precisions: tuple[str, ...] = (FP32,)

    @property
    def kind(self) -> str:
        return self.variant or self.encoder_order or ""

    def source(self, precision: str = FP32) -> Source:
        return Source(variant=self.variant, encoder_order=self.encoder_order, precision=precision)

    def repository(self, graphs: Path, precision: str) -> Path:
        return graphs / "-".join([self.model, self.kind, precision])


SUBJECTS = (
    Subject(model="localization_net", variant="large", precisions=(FP32, INT8)),
    Subject(model="heimdall_net", encoder_order=MBCONV),
    Subject(model="heimdall_net", encoder_order=HEIMDALL_1_0),
    Subject(model="heimdall_net_pro", encoder_order=MBCONV),
    Subject(model="heimdall_net_pro", encoder_order=HEIMDALL_1_0),
)


def prepare(subject: Subject, graphs: Path) -> None:
    """Publish what is not there yet."""
    for precision in subject.precisions:
        repository = Repository(subject.repository(graphs, precision))
        if not repository.versions(subject.model):
            print(f"publishing {subject.model} {subject.kind} {precision}", flush=True)
            source = subject.source(precision)
            publish(GRAPHS[subject.model], repository, source, version=None, report=lambda _: None)


def block_ms(call: Callable[[], object]) -> float:
    """The median time of some calls in a row.

    After a pause, and two calls that do not count: thread pools spin for a while after their work, and would take the
    cores from whoever is next.
    """
    time.sleep(PAUSE_S)
    for _ in range(2):
        call()
    times: list[float] = []
    while len(times) < FEWEST or (sum(times) < 1e3 * BLOCK_S and len(times) < MOST):
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def saturated_hz(url: str, requests: Sequence[bytes], duration_s: float) -> float:
    outcome = asyncio.run(saturated(url, requests, concurrency=IN_FLIGHT, duration_s=duration_s))
    assert not outcome.reasons, outcome.reasons
    return outcome.rate_hz


@contextmanager
def served(spec: ModelSpec, repository: Path) -> Iterator[tuple[TritonServer, LocalizationClient]]:
    """A warm server: one that has just started is slower for some hundred requests."""
    options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    with TritonServer(options) as server, LocalizationClient(server.grpc_url, timeout_s=60) as client:
        inputs = example(spec, active=10)
        begun = time.perf_counter()
        for _ in range(WARM_UP):
            client.infer(spec.name, inputs)
            if time.perf_counter() - begun > WARM_UP_S:
                break
        yield server, client


def loop_of(built: Built, spec: ModelSpec) -> Callable[[], object] | None:
    """The network as Heimdall itself runs it; None when it has one receiver only."""
    network = built.module.network
    if not isinstance(network, HeimdallBase):
        return None
    inputs = [torch.from_numpy(a) for a in example(spec, active=10).values()][:4]

    def run() -> None:
        with torch.inference_mode():
            heimdall_loop(network, *inputs)

    return run


@dataclass(frozen=True, kw_only=True)
class Round:
    """Every way of a model once: by precision and way in ms, saturated by precision in rows a second."""

    times_ms: dict[str, dict[str, float]]
    rates_hz: dict[str, float]
    others_cores: float


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model, ready to be measured. `shared` ways are those of every precision, `own` ones of each."""

    shared: dict[str, Callable[[], object]]
    own: dict[str, dict[str, Callable[[], object]]]
    urls: dict[str, str]
    requests: Sequence[bytes]
    triton: str

    def round(self) -> Round:
        """One way after the other."""
        others = Bystanders()
        same_ms = {way: block_ms(call) for way, call in self.shared.items()}
        times_ms, rates_hz = {}, {}
        for precision, ways in self.own.items():
            times_ms[precision] = same_ms | {way: block_ms(call) for way, call in ways.items()}
            round_s = max(ROUND_S, ROUND_REQUESTS * times_ms[precision][TRITON] / 1e3)
            rates_hz[precision] = saturated_hz(self.urls[precision], self.requests, round_s)
        return Round(times_ms=times_ms, rates_hz=rates_hz, others_cores=others.cores())

    def quiet_rounds(self, wanted: int) -> list[Round]:
        """So many rounds, made again (as many times at most) where others took part of the machine."""
        kept: list[Round] = []
        for _ in range(2 * wanted):
            found = self.round()
            if found.others_cores <= MOST_OTHERS_CORES:
                kept.append(found)
            else:
                print(f"a round does not count: others took {found.others_cores:.2f} cores", flush=True)
            if len(kept) == wanted:
                break
        return kept


@contextmanager
def ready(subject: Subject, graphs: Path) -> Iterator[Bench]:
    """Every way of a model, its servers started."""
    spec = GRAPHS[subject.model]
    inputs = example(spec, active=10)
    built = build_network(spec, subject.source())
    shared: dict[str, Callable[[], object]] = {EAGER: lambda: onnx_file.run_eager(built.module, spec, inputs)}
    if (loop := loop_of(built, spec)) is not None:
        shared[LOOP] = loop
    own: dict[str, dict[str, Callable[[], object]]] = {}
    urls = {}
    with ExitStack() as stack:
        for precision in subject.precisions:
            folder = subject.repository(graphs, precision)
            graph = folder / spec.name / "1" / GRAPH_FILE
            whole = onnx_file.open_session(graph, threads=cores())
            instance = onnx_file.open_session(graph, threads=spec.placements["cpu"].intra_op_threads)
            server, client = stack.enter_context(served(spec, folder))
            urls[precision] = server.grpc_url
            triton = str(server.http.call("/v2").document["version"])
            own[precision] = {
                DIRECT: lambda s=whole: onnx_file.run_session(s, inputs),
                INSTANCE: lambda s=instance: onnx_file.run_session(s, inputs),
                TRITON: lambda c=client: c.infer(spec.name, inputs),
            }
        pool = [serialised(spec.name, example(spec, active=10, seed=s), priority=Priority.BULK) for s in range(8)]
        yield Bench(shared=shared, own=own, urls=urls, requests=pool, triton=triton)


def measure(subject: Subject, graphs: Path, *, rounds: int, revision: str) -> tuple[list[Case], Machine]:
    """Every way of a model, in turn, and what it was measured on; no case when the machine was never quiet enough."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with ready(subject, graphs) as bench:
        kept = bench.quiet_rounds(rounds)
    here = describe(bench.triton)
    machine = replace(here, versions={**here.versions, "torch": installed_version("torch"), "revision": revision})
    if len(kept) < min(FEWEST_ROUNDS, rounds):
        return [], machine
    cases = [
        Case(
            model=subject.model,
            kind=subject.kind,
            precision=precision,
            date=started,
            revision=revision,
            versions={name: machine.versions[name] for name in TOOLS},
            others_cores=round(max(r.others_cores for r in kept), 3),
            in_flight=IN_FLIGHT,
            rounds_ms={
                way: tuple(round(r.times_ms[precision][way], 3) for r in kept) for way in kept[0].times_ms[precision]
            },
            rounds_hz=tuple(round(r.rates_hz[precision], 2) for r in kept),
        )
        for precision in subject.precisions
    ]
    return cases, machine


def cores() -> int:
    return len(os.sched_getaffinity(0))


def show_case(case: Case) -> None:
    label = f"{case.model} {case.kind} {case.precision}"
    for way in case.rounds_ms:
        if way != EAGER:
            detail = f"{case.time_ms(EAGER).p50:.2f} / {case.time_ms(way).p50:.2f} ms"
            show(f"{label}: eager / {way}", case.speed(way).p50, "", detail)
    show(f"{label}: saturated / eager", case.saturated_speed.p50, "", f"{case.saturated_hz.p50:.1f} rows/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep; 1 when the machine was too busy to keep something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted({s.model for s in SUBJECTS}), help="default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    parser.add_argument("--graphs", type=Path, help="where published versions are kept; default: a folder for this run")
    parser.add_argument("--prepare", action="store_true", help="publish into --graphs, and measure nothing")
    parser.add_argument("--output", type=Path, default=RESULTS / f"cpu-{cores()}core.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(cores())
    chosen = [s for s in SUBJECTS if options.models is None or s.model in options.models]
    # Before the results change: a kept file would mark the tree as dirty.
    revision = describe("").versions.get("revision", "")
    noisy = []
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as name:
        graphs = options.graphs or Path(name)
        for subject in chosen:
            prepare(subject, graphs)
            if not options.prepare:
                cases, machine = measure(subject, graphs, rounds=options.rounds, revision=revision)
                for case in cases:
                    show_case(case)
                if cases:
                    keep(cases, options.output, machine)
                else:
                    noisy.append(f"{subject.model} {subject.kind}".strip())
    for name in noisy:
        print(f"{name}: not kept, as the machine was hardly ever quiet; measure it again when nothing else runs")
    return 1 if noisy else 0


def keep(cases: Sequence[Case], file: Path, machine: Machine) -> None:
    """Put the cases into the file, in the place of older ones."""
    if file.is_file():
        Performance.read(file).with_cases(machine, cases).write(file)
    else:
        Performance(device=f"cpu-{cores()}core", machine=machine, cases=tuple(cases)).write(file)


if __name__ == "__main__":
    sys.exit(main())
