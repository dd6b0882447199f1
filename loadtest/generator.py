"""The load itself: requests sent over one channel by greenlets, when they are due or when the last was answered.

Import it in a process that gevent has patched. `gevent.sleep` ends about a millisecond late (measured: 0.9 ms at the
median, 4 ms at p99 when the server leaves the generator time), so that requests go out that much after they are due.
Latency counts from when they were due, and is never flattered by it. A request costs the process 0.25 to 0.4 ms of CPU
when many are in flight, 1.5 ms when it wakes up for each one, and a millisecond more for each megabyte of its payload:
one process sends two to four thousand a second (`rfserve-loadtest selftest` measures it).
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
import grpc
from gevent.pool import Group

from rfserve.export.spec import find
from rfserve.export.spec.tensor import Array
from rfserve.loadtest import failure
from rfserve.loadtest.payload import METHOD
from rfserve.loadtest.samples import Samples

# So much longer a late call may go on, which nobody waits for: cancelled calls can end a Triton (`clients.late_calls`).
GRACE_S = 5.0
# What is due at the very end of a window has so long to go out, or less when it is late before. A generator that needs
# longer for its schedule does not keep the rate, however late its budget lets it be.
CLOSING_S = 0.05

Report = Callable[[str, float | None, int, str | None], None]
"""Told of every request's end: model, latency in s from when it was due (None: it failed), bytes, and the reason."""


def unreported(model: str, latency_s: float | None, size: int, reason: str | None) -> None:
    """Nobody is told."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """When samples count: from `start` (of `time.perf_counter`, in seconds) for `duration_s`."""

    start: float
    duration_s: float

    @property
    def end(self) -> float:
        """When it is over."""
        return self.start + self.duration_s


class Generator:
    """One model's requests over `channel`, recorded in `samples`. A call may take `timeout_s`.

    What is sent later than `limit_s` after it was due is late; what could not be sent by so long after the window's
    end, `CLOSING_S` at most, never is.
    """

    def __init__(
        self,
        channel: Any,
        model: str,
        requests: Sequence[bytes],
        *,
        timeout_s: float,
        limit_s: float,
        report: Report = unreported,
    ) -> None:
        self.samples = Samples()
        self.scheduled = 0
        self._in_flight, self._calls = Group(), Group()
        self._call = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
        self._model, self._outputs = model, len(find(model).outputs)
        self._requests, self._timeout_s, self._limit_s, self._report = requests, timeout_s, limit_s, report

    def greet(self) -> None:
        """Send each request once, not counted: connections, caches and kernels for every shape are there afterwards."""
        for request in self._requests:
            if self._ask(request)[1] is not None:
                # A server that is away fails the requests that count.
                return

    def open_loop(self, due_s: Array, order: Array, window: Window) -> None:
        """Send each request when it is due, whether earlier ones are answered or not; ends when all are.

        `due_s` float64 (requests,) are seconds from the window's start, ascending, warm-up below 0; `order` int64
        (requests,) says which request goes out.
        """
        self.scheduled += int((due_s >= 0).sum())
        for due, which in zip(due_s.tolist(), order.tolist(), strict=True):
            now = time.perf_counter()
            if now > window.end + min(self._limit_s, CLOSING_S):
                break
            # Also when nothing is left to wait for: nothing goes out before this greenlet rests.
            gevent.sleep(max(0.0, window.start + due - now))
            self._in_flight.spawn(self._send, self._requests[which], due, window)
        self.finish()

    def closed_loop(self, users: int, order: Array, window: Window) -> None:
        """So many users, each of whom sends when the last request was answered; ends with the window's last answer."""
        turns = itertools.cycle(order.tolist())
        for _ in range(users):
            self._in_flight.spawn(self._use, turns, window)
        gevent.sleep(max(0.0, window.end - time.perf_counter()))
        self.finish()

    def finish(self) -> None:
        """Wait for the answers that are due, so that the slowest are not left out, and for late calls to end."""
        self._in_flight.join(timeout=self._timeout_s + GRACE_S)
        self._in_flight.kill()
        self._calls.join(timeout=GRACE_S)
        self._calls.kill()
        self.samples.give_up(failure.DEADLINE)

    def _use(self, turns: Iterator[int], window: Window) -> None:
        while (now := time.perf_counter()) < window.end:
            if now >= window.start:
                self.scheduled += 1
            self._send(self._requests[next(turns)], now - window.start, window)
            gevent.sleep(0)

    def _send(self, request: bytes, due_s: float, window: Window) -> None:
        sent_s = time.perf_counter() - window.start
        counts = due_s >= 0
        if counts:
            self.samples.begin(due_s, sent_s, self._limit_s)
        answer, reason = self._ask(request)
        done_s = time.perf_counter() - window.start
        if reason is None:
            reason, version = failure.of_answer(answer, self._outputs)
            self.samples.version = version or self.samples.version
        if counts and reason is None:
            self.samples.answered(due_s, sent_s, done_s)
        elif counts and reason is not None:
            self.samples.failed(due_s, reason)
        self._report(self._model, done_s - due_s if reason is None else None, len(answer), reason)

    def _ask(self, request: bytes) -> tuple[bytes, str | None]:
        try:
            return self._calls.spawn(self._whole, request).get(timeout=self._timeout_s)  # type: ignore[no-any-return]
        except gevent.Timeout:
            return b"", failure.DEADLINE

    def _whole(self, request: bytes) -> tuple[bytes, str | None]:
        try:
            return bytes(self._call(request, timeout=self._timeout_s + GRACE_S)), None
        except grpc.RpcError as error:
            return b"", failure.of_status(error.code().name, error.details() or "")
