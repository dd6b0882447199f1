"""A process that generates load: a Locust worker with one user, who runs the shares that its master sends.

Started by `engine` and `rfserve-loadtest worker`; importing it patches the standard library through gevent.
"""

import argparse
import logging
import os
import socket
import sys
import time
from typing import Any

import gevent
import grpc.experimental.gevent as grpc_gevent
import numpy as np
from gevent.fileobject import FileObjectThread
from gevent.queue import Queue
from locust import User, events, task
from locust.env import Environment

from rfserve.export.spec.tensor import Array
from rfserve.loadtest import locust_report, merging, messages, payload
from rfserve.loadtest.arrivals import schedule_s
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.generator import Generator, Window
from rfserve.loadtest.plan import Phase, Plan, Stream

# From the word to start to the first request that may be due: greenlets are there by then.
LEAD_S = 0.25
CHUNK = 50_000


class Share:
    """One worker's part of one phase: every stream's schedule is made whole, and each takes its requests in turn."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.job = str(document["job"])
        self.plan = Plan.from_dict(document["plan"])
        self.phase: Phase = self.plan.phases[document["phase"]]
        self.repetition, self.index, self.count = (int(document[name]) for name in ("repetition", "index", "count"))
        self.limits_ms: dict[str, float] = document["limits_ms"]
        self.endpoint = Endpoint(**document["endpoint"])

    def seed(self, stream: Stream) -> int:
        """Of a stream's payloads: the same in every repetition, and in every worker."""
        return self.plan.seed * 100 + self.plan.models.index(stream.model)

    def schedule(self, stream: Stream, distinct: int) -> tuple[Array, Array]:
        """Due times in seconds from the window's start, warm-up below 0, and which request is due: this worker's."""
        place = [self.phase.name, stream.model]
        rng = np.random.default_rng(
            [self.plan.seed, self.repetition, *(int.from_bytes(p.encode(), "little") for p in place)]
        )
        rate_hz = self.plan.rate_hz(stream)
        spans = ((self.plan.warm_up_s, -self.plan.warm_up_s), (self.phase.duration_s, 0.0))
        due_s = np.concatenate([schedule_s(stream.arrivals, rate_hz, s, rng) + start for s, start in spans])
        which = payload.order(due_s.size, distinct, stream.mix, rng)
        return due_s[self.index :: self.count], which[self.index :: self.count]

    def users(self, stream: Stream) -> int:
        """This worker's users of a closed loop."""
        whole = stream.users or 0
        return whole // self.count + int(self.index < whole % self.count)

    def order(self, distinct: int) -> Array:
        """Which requests a closed loop's users send in turn; each worker begins elsewhere."""
        return np.roll(np.arange(distinct), -self.index * distinct // self.count)


class Worker:
    """What this process holds between messages: connections, payloads, and the share that comes next."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.shares: Queue = Queue()
        self._payloads: dict[Any, tuple[bytes, ...]] = {}
        self._channels: dict[Any, Any] = {}
        self._prepared: tuple[Share, dict[str, Generator]] | None = None

    def prepare(self, document: dict[str, Any]) -> None:
        """Build and connect what a share needs, and tell the master; whatever is wrong is told it too."""
        try:
            share = Share(document)
            if document["look"]:
                share.endpoint.look()
            generators = {s.model: self._generator(share, s) for s in share.phase.streams}
            for generator in generators.values():
                generator.greet()
            self._prepared = share, generators
            self.tell(messages.READY, {"job": share.job})
        except Exception as error:
            self.tell(messages.PROBLEM, {"job": str(document.get("job")), "text": f"{error}"})

    def start(self, document: dict[str, Any]) -> None:
        """The master says go."""
        if self._prepared is not None and self._prepared[0].job == document["job"]:
            self.shares.put((*self._prepared, time.perf_counter() + LEAD_S))

    def run(self, share: Share, generators: dict[str, Generator], begun: float) -> None:
        """Run a share from `begun` on and send the master what was measured."""
        window = Window(start=begun + share.plan.warm_up_s, duration_s=share.phase.duration_s)
        usage = gevent.spawn(_cpu_share, window)
        running = []
        for stream in share.phase.streams:
            generator = generators[stream.model]
            distinct = len(self._requests(share, stream))
            if stream.loop == "open":
                due_s, order = share.schedule(stream, distinct)
                running.append(gevent.spawn(generator.open_loop, due_s, order, window))
            elif users := share.users(stream):
                running.append(gevent.spawn(generator.closed_loop, users, share.order(distinct), window))
        gevent.joinall([usage, *running], raise_error=True)
        for model, generator in generators.items():
            self._send(share.job, model, generator)
        streams = {model: merging.summary(generator) for model, generator in generators.items()}
        done = {"job": share.job, "streams": streams, "cpu_share": usage.value, "host": socket.gethostname()}
        self.tell(messages.DONE, done)

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """A message to the master."""
        self.environment.runner.send_message(kind, data)

    def _send(self, job: str, model: str, generator: Generator) -> None:
        due, sent, done = merging.packed(generator.samples.times_s())
        step = 8 * CHUNK
        for at in range(0, len(due), step):
            times = {"due": due[at : at + step], "sent": sent[at : at + step], "done": done[at : at + step]}
            self.tell(messages.SAMPLES, {"job": job, "model": model, **times})
            gevent.sleep(0)

    def _requests(self, share: Share, stream: Stream) -> tuple[bytes, ...]:
        key = (stream.model, stream.mix, share.plan.timeout_s, share.seed(stream))
        if key not in self._payloads:
            built = []
            for request in payload.requests(stream, timeout_s=share.plan.timeout_s, seed=share.seed(stream)):
                built.append(request)
                # Heartbeats must get through, or the master takes this worker for lost.
                gevent.sleep(0)
            self._payloads[key] = tuple(built)
        return self._payloads[key]

    def _generator(self, share: Share, stream: Stream) -> Generator:
        key = (share.endpoint, stream.model)
        if key not in self._channels:
            self._channels[key] = share.endpoint.channel()
        return Generator(
            self._channels[key],
            stream.model,
            self._requests(share, stream),
            timeout_s=share.plan.timeout_s,
            limit_s=share.limits_ms[stream.model] / 1e3,
            report=locust_report.to(self.environment),
        )


class PlanUser(User):  # type: ignore[misc]
    """Runs its process' shares; there is one in every worker."""

    @task
    def run_next(self) -> None:
        """Wait for the next share, and run it."""
        worker: Worker = self.environment.rfserve_worker
        share, generators, begun = worker.shares.get()
        try:
            worker.run(share, generators, begun)
        except Exception as error:
            worker.tell(messages.PROBLEM, {"job": share.job, "text": f"{type(error).__name__}: {error}"})


def _cpu_share(window: Window) -> float:
    gevent.sleep(max(0.0, window.start - time.perf_counter()))
    begun, cpu_s = time.perf_counter(), time.process_time()
    gevent.sleep(max(0.0, window.end - time.perf_counter()))
    return (time.process_time() - cpu_s) / (time.perf_counter() - begun)


def _end_with_parent() -> None:
    """A pipe from the process that started this one ends when that does."""
    FileObjectThread(sys.stdin.fileno(), "rb").read()
    os._exit(0)


def main() -> int:
    """Work until the master says quit, or is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--master-host", required=True)
    parser.add_argument("--master-port", type=int, required=True)
    parser.add_argument("--tethered", action="store_true", help="end when stdin does")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    if options.tethered:
        gevent.spawn(_end_with_parent)
    environment = Environment(user_classes=[PlanUser], events=events)
    try:
        runner = environment.create_worker_runner(options.master_host, options.master_port)
    except ConnectionError:
        print(f"error: no master at {options.master_host}:{options.master_port}", file=sys.stderr)
        return 1
    worker = environment.rfserve_worker = Worker(environment)

    def on_share(environment: Environment, msg: Any, **_: Any) -> None:
        del environment
        worker.prepare(msg.data)

    def on_go(environment: Environment, msg: Any, **_: Any) -> None:
        del environment
        worker.start(msg.data)

    runner.register_message(messages.SHARE, on_share, concurrent=True)
    runner.register_message(messages.GO, on_go)
    worker.tell(messages.HELLO, {"host": socket.gethostname(), "versions": messages.versions()})
    runner.greenlet.join()
    return 0


if __name__ == "__main__":
    grpc_gevent.init_gevent()
    code = main()
    sys.stderr.flush()
    # gRPC's threads and gevent's hub wait for each other when the interpreter ends.
    os._exit(code)
