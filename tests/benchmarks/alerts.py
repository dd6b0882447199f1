"""A real Prometheus watches real servers while something is done to them; which alerts fire, and after how long.

The alerts are those of production with every time divided, mostly by 60: an hour is a minute. `python alerts.py NAME…`
runs some of the experiments; exit code 1 when an alert did not fire, or one that should not have fired did.
"""

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_tools import Prometheus, prometheus
from served import publish_untrained
from wire_load import Outcome, WireLoad, saturated, serialised

from rfserve.export.repository import Repository
from rfserve.export.spec import example, find
from rfserve.export.spec.queueing import Priority
from rfserve.server import process_group
from rfserve.server.model_watch import WatchOptions
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer
from rfserve.server.security import Security
from rfserve.server.service import Service, ServiceOptions

MODEL, QUICK = "heimdall_net", "mel_features"
# Times what is answered of so many requests in flight.
OVERLOAD, IN_FLIGHT = 2.5, 8
FREE = {"grpc_port": 0, "http_port": 0, "metrics_port": 0, "security": Security(open_admin=True)}
CALM_S, AFTER_S = 6.0, 3.0
HASTEN = 60.0


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What an experiment did, or is to do, things to. `metrics` are URLs that Prometheus reads."""

    metrics: tuple[str, ...]
    grpc: str = ""
    service: Service | None = None
    server: TritonServer | None = None
    repository: Path = Path()
    process: "subprocess.Popen[str] | None" = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`cause` is done after a calm time in which nothing may fire; `fires` has to, and nothing beyond `may` as well."""

    about: str
    fires: frozenset[str]
    serve: Callable[[Path], "Iterator[Watched]"]
    cause: Callable[[Watched, ExitStack], None]
    may: frozenset[str] = frozenset()
    within_s: float = 60.0
    hasten: float = HASTEN


@dataclass(frozen=True, kw_only=True)
class Result:
    """Seconds from the cause until each alert was seen to fire, and those that fired before it."""

    early: frozenset[str]
    after_s: Mapping[str, float]


def run(experiment: Experiment, repository: Path, look: Callable[[Prometheus], None] = lambda _: None) -> Result:
    """Serve, watch, wait, do it, and see; `look` may ask Prometheus before anything is done."""
    with tempfile.TemporaryDirectory(prefix="rfserve-alerts-") as name, ExitStack() as stack:
        watched = stack.enter_context(contextmanager(experiment.serve)(repository))
        targets = [urlsplit(url).netloc for url in watched.metrics]
        seen = stack.enter_context(prometheus(Path(name), targets, experiment.hasten))
        if watched.metrics:
            _wait_for_scrapes(seen)
        calm_until = time.monotonic() + (CALM_S if watched.grpc else 0.0)
        early: set[str] = set()
        while time.monotonic() < calm_until:
            early |= seen.firing()
            time.sleep(0.5)
        look(seen)
        began = time.monotonic()
        cause = threading.Thread(target=experiment.cause, args=(watched, stack))
        cause.start()
        stack.callback(cause.join)
        after_s: dict[str, float] = {}
        end = began + experiment.within_s
        while time.monotonic() < end:
            for alert in seen.firing():
                if alert not in after_s:
                    after_s[alert] = time.monotonic() - began
                    if experiment.fires <= after_s.keys():
                        end = min(end, time.monotonic() + AFTER_S)
            time.sleep(0.25)
        return Result(early=frozenset(early), after_s=after_s)


def _wait_for_scrapes(seen: Prometheus) -> None:
    """Prometheus begins to scrape up to 5 s after its start, which a hastened rule takes for five minutes."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if any(value == 1 for _, value in seen.query("up")) and not seen.firing():
            return
        time.sleep(0.2)


class Load(threading.Thread):
    """Requests until it is stopped: `concurrency` at a time without pause, or `rate_hz` open loop."""

    def __init__(
        self, grpc: str, model: str, *, rate_hz: float = 0.0, concurrency: int = 1, batch: int = 1, priority: int = 0
    ) -> None:
        super().__init__(daemon=True)
        self._grpc, self._rate_hz, self._concurrency = grpc, rate_hz, concurrency
        self._requests = _requests(model, batch=batch, priority=priority)
        self.stopped = threading.Event()

    def run(self) -> None:
        """Send until `stop`."""
        asyncio.run(self._send())

    async def _send(self) -> None:
        async with WireLoad(self._grpc) as load:
            if self._rate_hz:
                for seed in itertools.count():
                    if self.stopped.is_set():
                        return
                    await load.opened(self._requests, rate_hz=self._rate_hz, duration_s=1, seed=seed)
            await asyncio.gather(*(self._one_after_the_other(load) for _ in range(self._concurrency)))

    async def _one_after_the_other(self, load: WireLoad) -> None:
        for request in itertools.cycle(self._requests):
            if self.stopped.is_set():
                return
            await load.send(request, Outcome())

    def stop(self) -> None:
        """Let it end, and wait for it."""
        self.stopped.set()
        self.join(30)


def _requests(model: str, *, batch: int = 1, priority: int = 0) -> list[bytes]:
    return [serialised(model, example(find(model), batch=batch, seed=seed), priority=priority) for seed in range(4)]


def _load(watched: Watched, stack: ExitStack, model: str, **options: float) -> Load:
    load = Load(watched.grpc, model, **options)
    load.start()
    stack.callback(load.stop)
    return load


def _ours(model: str, watch: WatchOptions | None = None, *, copied: bool = False, calm_hz: float = 2.0):
    """`rfserve-server run` in this process, with a little load."""

    def serve(repository: Path) -> Iterator[Watched]:
        with ExitStack() as stack:
            if copied:
                repository = _copy(repository, stack, model)
            options = ServerOptions(repository=repository, models=(model,), **FREE)
            service = stack.enter_context(Service(ServiceOptions(server=options, watch=watch)))
            watched = Watched(
                metrics=(service.metrics_url,),
                grpc=service.server.grpc_url,
                service=service,
                server=service.server,
                repository=repository,
            )
            if calm_hz:
                _load(watched, stack, model, rate_hz=calm_hz)
            yield watched

    return serve


def _plain(model: str):
    """tritonserver alone, with summaries: the metrics of NVIDIA's image."""

    def serve(repository: Path) -> Iterator[Watched]:
        with ExitStack() as stack:
            options = ServerOptions(
                repository=repository,
                models=(model,),
                extra_arguments=("--metrics-config=summary_latencies=true",),
                **FREE,
            )
            server = stack.enter_context(TritonServer(options))
            watched = Watched(metrics=(server.metrics_url,), grpc=server.grpc_url, server=server)
            _load(watched, stack, model, rate_hz=2.0)
            yield watched

    return serve


def _nobody(_: Path) -> Iterator[Watched]:
    yield Watched(metrics=())


def _copy(repository: Path, stack: ExitStack, model: str) -> Path:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rfserve-alerts-")))
    shutil.copytree(repository / model, folder / model)
    return folder


def _two_versions(repository: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        newer = _copy(repository, stack, QUICK)
        services = []
        publish_untrained([QUICK], Repository(newer))
        for folder in (repository, newer):
            options = ServerOptions(repository=folder, models=(QUICK,), **FREE)
            services.append(stack.enter_context(Service(ServiceOptions(server=options))))
        # Prometheus is to see the second when the time has come.
        yield Watched(metrics=tuple(s.metrics_url for s in services), grpc="", service=services[1])


def _process(repository: Path) -> Iterator[Watched]:
    """`rfserve-server run` in a process of its own."""
    with ExitStack() as stack:
        process, metrics, grpc = _start(repository, ("0", "0", "0"))
        watched = Watched(metrics=(metrics,), grpc=grpc, process=process, repository=repository)
        stack.callback(_end, watched)
        yield watched


def _start(repository: Path, ports: Sequence[str]) -> "tuple[subprocess.Popen[str], str, str]":
    command = [sys.executable, "-m", "rfserve.server.cli", "run", "--repository", str(repository), "--open-admin"]
    command += ["--model", QUICK, "--grpc-port", ports[0], "--http-port", ports[1], "--metrics-port", ports[2]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = next(text for text in iter(process.stdout.readline, "") if text.startswith("ready: "))
    words = line.replace(",", "").split()
    return process, words[6], words[2]


RUNNING: "list[subprocess.Popen[str]]" = []


def _end(watched: Watched) -> None:
    for process in [watched.process, *RUNNING]:
        if process is not None:
            process.kill()
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()
    RUNNING.clear()


def _overload(watched: Watched, stack: ExitStack) -> None:
    """By what this machine answers: what is far more on one is nothing on another."""
    requests = _requests(MODEL, priority=Priority.BULK)
    answered = asyncio.run(saturated(watched.grpc, requests, concurrency=IN_FLIGHT, duration_s=2.0))
    _load(watched, stack, MODEL, rate_hz=OVERLOAD * answered.rate_hz)


def _large_requests(watched: Watched, stack: ExitStack) -> None:
    _load(watched, stack, MODEL, batch=32)


def _never_free(watched: Watched, stack: ExitStack) -> None:
    _load(watched, stack, MODEL, concurrency=20, priority=Priority.URGENT)


def _kill_stub(watched: Watched, stack: ExitStack) -> None:
    assert watched.server is not None
    _load(watched, stack, MODEL, rate_hz=15)
    os.kill(process_group.stubs(watched.server.pid)[0].pid, signal.SIGKILL)


def _kill_stubs_often(watched: Watched, _: ExitStack) -> None:
    assert watched.server is not None
    for _ in range(3):
        # The youngest: those of the model before it was mended stay for some seconds, and nobody misses them.
        os.kill(max(s.pid for s in process_group.stubs(watched.server.pid)), signal.SIGKILL)
        time.sleep(8)


def break_for_good(watched: Watched, _: ExitStack) -> None:
    """The model's file is gone, so that it cannot be loaded again, and then its processes."""
    assert watched.server is not None
    for file in watched.repository.glob("*/*/model.onnx"):
        file.unlink()
    for stub in process_group.stubs(watched.server.pid):
        os.kill(stub.pid, signal.SIGKILL)


def _unload(watched: Watched, _: ExitStack) -> None:
    assert watched.server is not None
    watched.server.http.unload(QUICK, 30)


def _kill_process(watched: Watched, _: ExitStack) -> None:
    assert watched.process is not None
    watched.process.kill()


def _restart_often(watched: Watched, _: ExitStack) -> None:
    assert watched.process is not None
    ports = [urlsplit(f"//{url.removeprefix('http://')}").port for url in (watched.grpc, watched.metrics[0])]
    process = watched.process
    for _ in range(3):
        process.terminate()
        process.wait(60)
        process, _, _ = _start(watched.repository, (str(ports[0]), "0", str(ports[1])))
        RUNNING.append(process)


def _nothing(_: Watched, __: ExitStack) -> None:
    pass


def _grow(watched: Watched, stack: ExitStack) -> None:
    """Ever larger requests: the arena of ONNX Runtime keeps what it once took."""
    stop = threading.Event()

    def send() -> None:
        async def work() -> None:
            async with WireLoad(watched.grpc) as load:
                for step in range(10_000):
                    if stop.is_set():
                        return
                    rows = min(32, 1 + step // 6)
                    inputs = example(find(MODEL), batch=rows, sizes={"samples": min(16_384, 1024 + 64 * step)})
                    await load.send(serialised(MODEL, inputs), Outcome())
                    await asyncio.sleep(1.5)

        asyncio.run(work())

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    stack.callback(thread.join, 30)
    stack.callback(stop.set)


WATCH = WatchOptions(interval_s=2.0)
ERRORS, LATENCY, QUEUE = "RfserveErrorBudgetBurn", "RfserveLatencyBudgetBurn", "RfserveQueueGrowing"
EXPERIMENTS: Mapping[str, Experiment] = {
    "calm": Experiment(
        about="a little load, nothing else", fires=frozenset(), serve=_ours(MODEL, WATCH), cause=_nothing, within_s=25
    ),
    "overload": Experiment(
        about="far more than it can answer",
        fires=frozenset({ERRORS, QUEUE}),
        serve=_ours(MODEL, WATCH),
        cause=_overload,
    ),
    "slow": Experiment(
        about="requests of 32 rows, one after the other",
        fires=frozenset({LATENCY}),
        serve=_ours(MODEL, WATCH),
        cause=_large_requests,
    ),
    "dead_instance": Experiment(
        about="one of two stubs killed, no watchdog",
        fires=frozenset({ERRORS, "RfserveInstanceFailing"}),
        serve=_ours(MODEL),
        cause=_kill_stub,
    ),
    "dead_instance_stock": Experiment(
        about="the same, with Triton's metrics alone",
        fires=frozenset({ERRORS, "RfserveInstanceFailing"}),
        # Triton's quantiles look back for 60 s, which cannot be hastened: one slow first request is an hour of them.
        may=frozenset({"RfserveTailLatency"}),
        serve=_plain(MODEL),
        cause=_kill_stub,
    ),
    "mended": Experiment(
        about="one stub killed, and the watchdog mends it",
        fires=frozenset(),
        may=frozenset({"RfserveModelDead"}),
        serve=_ours(MODEL, WATCH),
        cause=lambda w, _: os.kill(process_group.stubs(w.server.pid)[0].pid, signal.SIGKILL),
        within_s=20,
    ),
    "dead_model": Experiment(
        about="its stubs killed and its file gone",
        fires=frozenset({"RfserveModelDead"}),
        may=frozenset({"RfserveModelNotReady", ERRORS}),
        serve=_ours(QUICK, WATCH, copied=True),
        cause=break_for_good,
    ),
    "unloaded": Experiment(
        about="a model unloaded",
        fires=frozenset({"RfserveModelNotReady"}),
        serve=_ours(QUICK, WATCH, calm_hz=0),
        cause=_unload,
    ),
    "never_free": Experiment(
        about="urgent requests without pause, so that canaries wait in vain",
        fires=frozenset({"RfserveCanaryStale"}),
        may=frozenset({ERRORS, QUEUE, LATENCY}),
        serve=_ours(MODEL, WATCH),
        cause=_never_free,
        within_s=150,
    ),
    "dying": Experiment(
        about="three stubs killed in a row, each mended",
        fires=frozenset({"RfserveStubsDying"}),
        may=frozenset({"RfserveModelDead"}),
        serve=_ours(QUICK, WATCH, calm_hz=0),
        cause=_kill_stubs_often,
    ),
    "killed": Experiment(
        about="rfserve-server killed",
        fires=frozenset({"RfserveServerDown"}),
        serve=_process,
        cause=_kill_process,
    ),
    "restarts": Experiment(
        about="restarted three times",
        fires=frozenset({"RfserveRestarting"}),
        serve=_process,
        cause=_restart_often,
        hasten=12,
        within_s=90,
    ),
    "nobody": Experiment(
        about="no server to scrape",
        fires=frozenset({"RfserveNoServers"}),
        serve=_nobody,
        cause=_nothing,
    ),
    "skew": Experiment(
        about="two servers, the second with a version more",
        fires=frozenset({"RfserveVersionSkew"}),
        serve=_two_versions,
        cause=_nothing,
    ),
    "slow_stock": Experiment(
        about="requests of 32 rows, with Triton's metrics alone",
        fires=frozenset({"RfserveTailLatency"}),
        serve=_plain(MODEL),
        cause=_large_requests,
    ),
    "growing": Experiment(
        about="ever larger requests",
        fires=frozenset({"RfserveMemoryGrowing"}),
        may=frozenset({LATENCY}),
        serve=_ours(MODEL, WATCH, calm_hz=0),
        cause=_grow,
        hasten=360,
        within_s=280,
    ),
}


def verdict(experiment: Experiment, result: Result) -> str:
    """Empty when what fired is what should have, and what is wrong when not."""
    fired = set(result.after_s)
    wrong = []
    if result.early - experiment.may:
        wrong.append(f"fired before: {', '.join(sorted(result.early))}")
    if experiment.fires - fired:
        wrong.append(f"did not fire: {', '.join(sorted(experiment.fires - fired))}")
    if fired - experiment.fires - experiment.may:
        wrong.append(f"should not have fired: {', '.join(sorted(fired - experiment.fires - experiment.may))}")
    return "; ".join(wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what fired in each experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--repository", type=Path, help=f"one that holds {MODEL} and {QUICK} (default: made)")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"no experiment {', '.join(sorted(unknown))}; expected {', '.join(EXPERIMENTS)}")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="rfserve-alerts-") as name:
        repository = options.repository or Path(name)
        if options.repository is None:
            publish_untrained([MODEL, QUICK], Repository(repository))
        for chosen in options.names or EXPERIMENTS:
            experiment = EXPERIMENTS[chosen]
            result = run(experiment, repository)
            wrong = verdict(experiment, result)
            bad += bool(wrong)
            fired = ", ".join(f"{a} after {s:.0f} s" for a, s in sorted(result.after_s.items(), key=lambda x: x[1]))
            print(
                f"{chosen:20} {experiment.about} (1/{experiment.hasten:g} of the time): {fired or 'nothing'}",
                flush=True,
            )
            if wrong:
                print(f"{'':20} WRONG: {wrong}", flush=True)
    return 1 if bad else 0


def report() -> None:
    """Every experiment, for `make bench-serving`."""
    main([])


if __name__ == "__main__":
    sys.exit(main())
