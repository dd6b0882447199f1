"""Locust users with an open-loop schedule for `locust -f loadtest/locustfile.py`: one for each served model."""

import time
from typing import ClassVar

import numpy as np
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from rfserve.loadtest import locust_report, payload
from rfserve.loadtest.arrivals import schedule_s
from rfserve.loadtest.commands.server_options import DEFAULT_URL
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.generator import Generator, Window
from rfserve.loadtest.plan import Plan
from rfserve.loadtest.taken import Taken
from rfserve.loadtest.validity import lateness_limit_ms

# Locust itself is busy when users start; what is due then would measure that.
SETTLE_S = 1.0
# The schedule of a test without an end.
LONGEST_S = 3600.0

TAKEN: dict[str, Taken] = {}


class ModelUser(User):  # type: ignore[misc]
    """Sends one model's requests when they are due, whether earlier ones are answered or not.

    Latency counts from the time a request was due, so that a slow server cannot hide behind a waiting client.
    """

    abstract = True
    model: ClassVar[str]
    fixed_count = 1

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.plan: Plan = environment.rfserve_plan(self.model)
        (self.stream,) = self.plan.phases[0].streams
        self.requests = tuple(payload.requests(self.stream, timeout_s=self.plan.timeout_s, seed=self.plan.seed))

    def on_start(self) -> None:
        """Connect, and send one request of each kind that does not count."""
        self.limit_ms = lateness_limit_ms(self.plan, self.model)
        self.channel = Endpoint(url=self.host or DEFAULT_URL).channel()
        self.generator = Generator(
            self.channel,
            self.model,
            self.requests,
            timeout_s=self.plan.timeout_s,
            limit_s=self.limit_ms / 1e3,
            report=locust_report.to(self.environment),
        )
        self.generator.greet()

    def on_stop(self) -> None:
        """Wait for the answers that are due, keep what was measured, and close the connection."""
        if hasattr(self, "window"):
            ended = time.perf_counter()
            cpu_share = (time.process_time() - self.cpu_s) / (ended - self.begun)
            self.generator.finish()
            TAKEN[self.model] = Taken(
                samples=self.generator.samples,
                due_s=self.due_s,
                rate_hz=self.plan.rate_hz(self.stream),
                limit_ms=self.limit_ms,
                duration_s=min(ended, self.window.end) - self.window.start,
                cpu_share=cpu_share,
            )
        self.channel.close()

    @task
    def send_when_due(self) -> None:
        """The whole schedule, made beforehand; Locust ends it when the run is over."""
        run_time_s = float(self.environment.parsed_options.run_time or LONGEST_S)
        # Models of one rate would else be asked at the same instants.
        rng = np.random.default_rng([self.plan.seed, *self.model.encode()])
        rate_hz = self.plan.rate_hz(self.stream)
        self.due_s = schedule_s(self.stream.arrivals, rate_hz, run_time_s + SETTLE_S, rng) - SETTLE_S
        order = payload.order(self.due_s.size, len(self.requests), self.stream.mix, rng)
        self.begun, self.cpu_s = time.perf_counter(), time.process_time()
        self.window = Window(start=self.begun + SETTLE_S, duration_s=run_time_s)
        self.generator.open_loop(self.due_s, order, self.window)
        raise StopUser
