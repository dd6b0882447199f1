"""Locust users with an open-loop schedule: one for each served model."""

import itertools
import time
from typing import Any, ClassVar

import gevent
import numpy as np
import tritonclient.grpc as triton
from gevent.pool import Group
from locust import User, task
from locust.env import Environment
from tritonclient.utils import InferenceServerException

from rfserve.clients.connection import Connection, from_wire, to_wire
from rfserve.clients.errors import RequestError
from rfserve.export.spec import find
from rfserve.loadtest.arrivals import poisson_s
from rfserve.loadtest.payload import pool
from rfserve.loadtest.samples import Samples

# Locust itself is busy when users start; what is due then would measure that.
SETTLE_S = 1.0

SAMPLES: dict[str, Samples] = {}


class ModelUser(User):  # type: ignore[misc]
    """Sends one model's requests when they are due, whether earlier ones are answered or not.

    Latency counts from the time a request was due, so that a slow server cannot hide behind a waiting client.
    """

    abstract = True
    model: ClassVar[str]
    fixed_count = 1

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        budget = find(self.model).budgets[options.target]
        self.rate_hz = budget.rate_hz * options.rate_scale
        self.seed = options.seed
        self.connection = Connection(url=self.host or "127.0.0.1:8001", timeout_s=options.timeout_s)
        self.samples = SAMPLES.setdefault(self.model, Samples())
        self.in_flight = Group()
        self.requests = [to_wire(self.model, arrays) for arrays in pool(self.model)]

    def on_start(self) -> None:
        """Connect, and send one request of each kind that does not count."""
        self.client = triton.InferenceServerClient(self.connection.target, **self.connection.channel_options())
        for inputs, outputs in self.requests:
            # A server that is away fails the requests that count.
            with gevent.Timeout(self.connection.timeout_s, False):
                try:
                    self.client.infer(self.model, inputs, outputs=outputs, client_timeout=self.connection.timeout_s)
                except InferenceServerException:
                    break

    def on_stop(self) -> None:
        """Wait for the answers that are due, so that the slowest are not left out, and close the connection."""
        self.in_flight.join()
        self.client.close()

    @task
    def send_when_due(self) -> None:
        """The whole schedule; Locust ends it when the run is over."""
        begun = time.perf_counter() + SETTLE_S
        with_requests = zip(poisson_s(self.rate_hz, self.seed), itertools.cycle(self.requests), strict=False)
        for due_s, (inputs, outputs) in with_requests:
            due = begun + due_s
            gevent.sleep(max(0.0, due - time.perf_counter()))
            self.in_flight.spawn(self._send, due, inputs, outputs)

    def _send(self, due: float, inputs: list[Any], outputs: list[Any]) -> None:
        self.samples.lags_s.append(time.perf_counter() - due)
        problem: Exception | None = None
        size = 0
        try:
            result = self.client.infer(self.model, inputs, outputs=outputs, client_timeout=self.connection.timeout_s)
            answer, _ = from_wire(self.model, result)
            size = sum(a.nbytes for a in answer.values())
            if not all(np.isfinite(a).all() for a in answer.values()):
                problem = ValueError("the answer holds non-finite numbers")
        except InferenceServerException as error:
            problem = self.connection.translate(error, self.model)
        except RequestError as error:
            # An answer without its outputs is a failed request, not one that never was.
            problem = error
        latency_s = time.perf_counter() - due
        if problem is None:
            self.samples.latencies_s.append(latency_s)
        else:
            self.samples.failures.append(str(problem))
        self.environment.events.request.fire(
            request_type="grpc",
            name=self.model,
            # None keeps a failure out of Locust's histogram as well.
            response_time=None if problem else latency_s * 1e3,
            response_length=size,
            exception=problem,
        )
