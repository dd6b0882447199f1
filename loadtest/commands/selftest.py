"""`rfserve-loadtest selftest`: whether the load generator of this host tells the truth, and how much it can send."""

import argparse
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from rfserve.loadtest import stall
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.engine import Engine
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Measurement, Run
from rfserve.loadtest.plan import Phase, Plan, Stream

MODEL = "heimdall_net"
RATE_HZ = 50.0
WINDOW_S, WARM_UP_S, CEILING_S = 8.0, 1.0, 3.0
# From the beginning of the warm-up.
STALL_AFTER_S = 4.0
USERS = 16
# A server that is stopped for a second keeps RATE_HZ requests waiting, a sixth of all for more than these ms; a user
# that waits with it sends none of them.
TRUE_P99_MS, NAIVE_P99_MS = 500.0, 100.0


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    selftest = commands.add_parser(
        "selftest",
        help="stop a server for a second, and see that the latencies say so; how much one process can send",
    )
    selftest.set_defaults(run=_selftest)


def _selftest(options: argparse.Namespace) -> int:
    del options
    opened = Phase(name="open", duration_s=WINDOW_S, streams=(Stream(model=MODEL, rate_hz=RATE_HZ),))
    closed = Phase(name="closed", duration_s=WINDOW_S, streams=(Stream(model=MODEL, users=1),))
    many = Phase(name="many", duration_s=CEILING_S, streams=(Stream(model=MODEL, users=USERS),))
    threads: list[threading.Thread] = []
    with _null_server() as (pid, url), Engine() as engine:
        stalled = _run(engine, url, (opened, closed), stall.on_each_phase(STALL_AFTER_S, [pid], threads))
        for thread in threads:
            thread.join()
        (ceiling,) = _run(engine, url, (many,)).measurements
    true, naive = stalled.measurements
    true_ms, naive_ms = true.latency_ms(99), naive.send_latency_ms(99)
    print(f"a server that stops for {stall.STOPPED_S:g} s:")
    print(f"  p99 since due, open loop at {RATE_HZ:g}/s   {true_ms:8.1f} ms   expected over {TRUE_P99_MS:g}")
    print(f"  p99 since sent, one user, closed   {naive_ms:8.1f} ms   expected under {NAIVE_P99_MS:g}: blind to it")
    print(_ceiling(ceiling))
    told = true_ms > TRUE_P99_MS and naive_ms < NAIVE_P99_MS
    print("ok" if told else "NOT ok: this load generator does not tell what happened")
    return 0 if told else 1


def _run(engine: Engine, url: str, phases: tuple[Phase, ...], progress: Any = lambda _: None) -> Run:
    plan = Plan(name="selftest", device="cpu-2core", phases=phases, repetitions=1, warm_up_s=WARM_UP_S)
    return engine.run(plan, Endpoint(url=url), progress=progress)


def _ceiling(measurement: Measurement) -> str:
    share, rate_hz = measurement.generator.cpu_share, measurement.goodput_hz
    each_ms = 1e3 * share / rate_hz if rate_hz else float("nan")
    return (
        f"one process sends {rate_hz:.0f} requests a second with {USERS} in flight; each takes {each_ms:.2f} ms of CPU"
    )


@contextlib.contextmanager
def _null_server() -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "rfserve.loadtest.null_server", MODEL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = (process.stdout.readline() if process.stdout else "").strip()
            if not port:
                raise LoadTestError("the self-test's own server did not start; see its messages above")
            yield process.pid, f"127.0.0.1:{port}"
        finally:
            process.kill()
