"""The process that conducts a load test: a Locust master, which takes plans from stdin and answers on stdout.

Started by `engine`; importing it patches the standard library through gevent. Every line is a JSON document. In comes
`{"plan": …, "endpoint": …, "repository": …, "look": …, "file": …}`; out goes one with the port, then for every plan
some with `progress` and one with `file`, where the run is, or `error`.
"""

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import grpc.experimental.gevent as grpc_gevent
from gevent.fileobject import FileObjectThread
from gevent.queue import Queue
from locust import events
from locust.env import Environment
from locust.exception import RPCError
from locust.runners import STATE_MISSING

from rfserve.export.spec import RfserveError
from rfserve.loadtest import machine, messages, server_statistics
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.generator import GRACE_S
from rfserve.loadtest.locust_worker import LEAD_S, PlanUser
from rfserve.loadtest.measurement import Measurement, Run
from rfserve.loadtest.merging import Part, measurement
from rfserve.loadtest.plan import Phase, Plan
from rfserve.loadtest.validity import lateness_limit_ms

LOOK_S = 0.02
# After Locust has missed heartbeats for three seconds or four.
LOST_S = 6.0
# Payloads of many lengths are built meanwhile.
READY_S = 300.0
# What is left for a worker's samples to arrive.
DELIVERY_S = 60.0


@dataclass(kw_only=True)
class Job:
    """One phase of one repetition, as the workers carry it out."""

    name: str
    ready: set[str]
    done: set[str]
    parts: dict[str, Part]
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be measured, and where."""

    plan: Plan
    endpoint: Endpoint
    repository: Path | None
    look: bool


class Master:
    """Locust's master and what came from its workers."""

    def __init__(self, host: str, port: int, workers: int, wait_s: float) -> None:
        self._workers, self._wait_s = workers, wait_s
        self._environment = Environment(user_classes=[PlanUser], events=events)
        self._runner = self._environment.create_master_runner(host, port)
        self._present: set[str] = set()
        self._team: list[str] = []
        self._stranger = ""
        self._names = (f"{os.getpid()}-{n}" for n in itertools.count())
        self._job: Job | None = None
        for kind in (messages.HELLO, messages.READY, messages.SAMPLES, messages.DONE, messages.PROBLEM):
            self._runner.register_message(kind, self._heard)

    @property
    def port(self) -> int:
        """Where workers connect."""
        return int(self._runner.server.port)

    def run(self, order: Order, progress: Callable[[str], None]) -> Run:
        """Carry out a plan; `LoadTestError` when a worker fails or is lost."""
        plan, endpoint = order.plan, order.endpoint
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._team = self._gather()
        measured: list[Measurement] = []
        version = server_statistics.version(endpoint)
        for repetition in range(plan.repetitions):
            for index in range(len(plan.phases)):
                measured += self._measure(order, index, repetition, progress)
        return Run(
            name=plan.name,
            device=plan.device,
            started=started,
            url=endpoint.url,
            machine=machine.describe(version),
            measurements=tuple(measured),
            plan=plan.to_dict(),
        )

    def quit(self) -> None:
        """Send the workers home."""
        self._runner.quit()

    def _heard(self, environment: Environment, msg: Any, **_: Any) -> None:
        del environment
        if msg.type == messages.HELLO:
            self._present.add(msg.node_id)
            if (theirs := msg.data["versions"]) != messages.versions():
                self._stranger = f"the load generator on {msg.data['host']} has {theirs}"
            return
        job = self._job
        if job is None or msg.data["job"] != job.name:
            return
        part = job.parts[msg.node_id]
        if msg.type == messages.READY:
            job.ready.add(msg.node_id)
        elif msg.type == messages.SAMPLES:
            part.add(msg.data)
        elif msg.type == messages.DONE:
            part.finish(msg.data)
            job.done.add(msg.node_id)
        else:
            job.problem = msg.data["text"]

    def _gather(self) -> list[str]:
        """Wait for the workers, and have each start its user; `LoadTestError` when they do not come in time.

        Those that came beside them have no user.
        """
        deadline = time.monotonic() + self._wait_s
        self._come(lambda: len(self._present & set(self._runner.clients)), "have come", deadline)
        if self._runner.user_count < self._workers:
            self._runner.start(self._workers, spawn_rate=self._workers)
            self._come(lambda: int(self._runner.user_count), "have a user that runs", deadline + LOST_S)
        return sorted(w for w, client in self._runner.clients.items() if w in self._present and client.user_count)

    def _come(self, count: Callable[[], int], what: str, deadline: float) -> None:
        while (present := count()) < self._workers and not self._stranger:
            if time.monotonic() > deadline:
                raise LoadTestError(
                    f"{present} of {self._workers} load generators {what} after {self._wait_s:g} s; see their "
                    f"messages, or start others: `rfserve-loadtest worker --master-host HOST --master-port {self.port}`"
                )
            gevent.sleep(LOOK_S)
        if self._stranger:
            raise LoadTestError(f"{self._stranger}; expected {messages.versions()} as here: install the same there")

    def _measure(self, order: Order, index: int, repetition: int, progress: Callable[[str], None]) -> list[Measurement]:
        plan, endpoint = order.plan, order.endpoint
        phase: Phase = plan.phases[index]
        workers = self._team
        job = Job(name=next(self._names), ready=set(), done=set(), parts={w: Part() for w in workers})
        self._job = job
        limits_ms = {s.model: lateness_limit_ms(plan, s.model) for s in phase.streams}
        share = {
            "job": job.name,
            "plan": plan.to_dict(),
            "phase": index,
            "repetition": repetition,
            "count": len(workers),
            "limits_ms": limits_ms,
            "endpoint": endpoint.to_dict(),
            # Whoever fails later is a server that fails.
            "look": order.look and index == repetition == 0,
        }
        for place, worker in enumerate(workers):
            self._runner.send_message(messages.SHARE, {**share, "index": place}, client_id=worker)
        self._wait(job, lambda: len(job.ready) == len(workers), READY_S, "ready")
        progress(f"repetition {repetition + 1} of {plan.repetitions}: {phase.name}")
        for worker in workers:
            self._runner.send_message(messages.GO, {"job": job.name}, client_id=worker)
        gevent.sleep(LEAD_S + plan.warm_up_s)
        models = [s.model for s in phase.streams]
        before = server_statistics.counts(endpoint, models)
        # What was due last may take its whole time-out.
        patience_s = phase.duration_s + plan.timeout_s + GRACE_S + DELIVERY_S
        self._wait(job, lambda: len(job.done) == len(workers), patience_s, "done")
        after = server_statistics.counts(endpoint, models)
        return [
            measurement(
                plan,
                phase,
                stream,
                repetition=repetition,
                limit_ms=limits_ms[stream.model],
                parts=list(job.parts.values()),
                before=before[stream.model],
                after=after[stream.model],
                repository=order.repository,
            )
            for stream in phase.streams
        ]

    def _wait(self, job: Job, over: Callable[[], bool], patience_s: float, what: str) -> None:
        deadline = time.monotonic() + patience_s
        seen = dict.fromkeys(job.parts, time.monotonic())
        while not over():
            if job.problem:
                raise LoadTestError(job.problem)
            now = time.monotonic()
            # A worker that builds payloads misses some heartbeats.
            seen |= {w: now for w, c in self._runner.clients.items() if w in seen and c.state != STATE_MISSING}
            lost = [w for w, at in seen.items() if now - at > LOST_S]
            if lost or now > deadline:
                who = f"lost {', '.join(lost)}" if lost else f"not {what} after {patience_s:.0f} s"
                raise LoadTestError(f"a load generator is gone or hangs ({who}); see its messages, and start again")
            gevent.sleep(LOOK_S)


def say(**document: Any) -> None:
    """One line for the process that started this one."""
    print(json.dumps(document), flush=True)


def _read(orders: Queue, master: Master) -> None:
    """Take orders, and end at once when whoever gives them is gone, also in the middle of a plan."""
    for line in FileObjectThread(sys.stdin.fileno(), "rb"):
        orders.put(line)
    master.quit()
    os._exit(0)


def main() -> int:
    """Conduct plans until stdin ends; returns only when it could not begin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True, help="address to bind")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--wait-s", type=float, required=True, help="for them")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    try:
        master = Master(options.host, options.port, options.workers, options.wait_s)
    # Locust ends the process when the port is taken.
    except (RPCError, SystemExit) as error:
        say(error=f"cannot listen on {options.host}:{options.port}: {error}; give another --master-port")
        return 1
    say(port=master.port)
    orders: Queue = Queue()
    gevent.spawn(_read, orders, master)
    while True:
        given = json.loads(orders.get())
        try:
            order = Order(
                plan=Plan.from_dict(given["plan"]),
                endpoint=Endpoint(**given["endpoint"]),
                repository=None if given["repository"] is None else Path(given["repository"]),
                look=given["look"],
            )
            master.run(order, lambda text: say(progress=text)).write(Path(given["file"]))
            say(file=given["file"])
        except RfserveError as error:
            say(error=str(error))


if __name__ == "__main__":
    grpc_gevent.init_gevent()
    code = main()
    sys.stdout.flush()
    # gRPC's threads and gevent's hub wait for each other when the interpreter ends.
    os._exit(code)
