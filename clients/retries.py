"""When and where a call is tried again, within its deadline and within what all calls together may repeat."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from rfserve.clients.errors import (
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    RequestError,
    ServerUnavailable,
)
from rfserve.clients.servers import Channel, Servers

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# Triton's batcher sleeps for 0.5 s when it has missed that an instance is free, and refuses what it then finds too old.
BATCHER_ASLEEP_S = (0.45, 0.8)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RetryLimit:
    """What a client may send beyond its calls: retries and hedges together.

    Each call adds `share` of one, each second `per_second`, and up to `burst` are kept. So an outage is answered with
    at most `share` more requests, whatever the number of calls (as gRPC's retry throttling and Finagle's retry budget
    do it), and a client that makes few calls can still be patient.
    """

    share: float = 0.1
    per_second: float = 1.0
    burst: float = 10.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.per_second < float("inf") and 0 <= self.burst < float("inf")):
            raise ClientError(f"retry limit: got {self}; expected a share from 0 to 1, the others from 0")


class RetryBudget:
    """The tokens of a `RetryLimit`, shared by all calls of a client."""

    def __init__(self, limit: RetryLimit) -> None:
        self._limit = limit
        self._tokens = limit.burst
        self._seen = time.monotonic()
        self._lock = threading.Lock()

    def call(self) -> None:
        """A call begins."""
        with self._lock:
            self._tokens = min(self._limit.burst, self._tokens + self._limit.share)

    def take(self) -> bool:
        """Whether one more request may be sent; it then counts."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._limit.burst, self._tokens + (now - self._seen) * self._limit.per_second)
            self._seen = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class Counts:
    """What a client has sent: `calls`, and beyond them `retries` and `hedges`.

    `hedges_won` counts hedges that answered first, `refused` the retries and hedges that the retry limit did not allow.
    """

    def __init__(self) -> None:
        self.calls = self.retries = self.hedges = self.hedges_won = self.refused = 0
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """One more of these."""
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)

    def __repr__(self) -> str:
        shown = ("calls", "retries", "hedges", "hedges_won", "refused")
        return f"Counts({', '.join(f'{n}={getattr(self, n)}' for n in shown)})"


class Attempts(Generic[T]):
    """The tries of one call: the time and the server for each, and the pause after one that failed.

    A server that is away is asked again after a pause, unless another one is left to ask at once. A full queue, a model
    that is not ready and an answer that never came are worth another server, never the same one again; unless it was
    refused after as long as Triton's batcher oversleeps, for then the server has nothing to do.
    """

    def __init__(self, timeout_s: float, servers: Servers[T], budget: RetryBudget, counts: Counts) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._servers, self._budget, self._counts = servers, budget, counts
        self._pause_s = FIRST_PAUSE_S
        self._failed: set[str] = set()
        self._began = time.monotonic()
        self._problem: RequestError | None = None
        budget.call()
        counts.add("calls")

    def __iter__(self) -> Iterator[tuple[float, Channel[T]]]:
        """What is left of the time-out, and whom to ask, for each try; ends when no time is left."""
        while (left := self.left_s) > 0:
            self._began = time.monotonic()
            yield left, self._servers.pick(self._failed)

    @property
    def left_s(self) -> float:
        """What is left of the time-out."""
        return self._deadline - time.monotonic()

    def hedge(self, first: Channel[T]) -> Channel[T] | None:
        """Whom to ask besides `first`, which has not answered yet; None when the retry limit does not allow it."""
        if not self._budget.take():
            self._counts.add("refused")
            return None
        self._counts.add("hedges")
        return self._servers.pick(self._failed | {first.server})

    def hedge_failed(self, channel: Channel[T], error: RequestError) -> None:
        """Whom a hedge asked did not answer either: the next try goes elsewhere if it can.

        A hedge has less time than a try, so that a server that needed more of it is not away.
        """
        self._failed.add(channel.server)
        if isinstance(error, ServerUnavailable):
            self._servers.rest(channel)

    def failed(self, channel: Channel[T], error: RequestError) -> float:
        """How long to wait before the next try; raises `error` when it is not worth one, or time is short."""
        self._failed.add(channel.server)
        self._problem = error
        away = isinstance(error, ServerUnavailable)
        shortest_s, longest_s = BATCHER_ASLEEP_S
        overslept = isinstance(error, Overloaded) and shortest_s <= time.monotonic() - self._began <= longest_s
        if away or isinstance(error, DeadlineExceeded):
            self._servers.rest(channel)
        others = self._servers.others(self._failed)
        pause = 0.0
        if away and not others:
            # Clients that lost one server together must not come back together.
            pause = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if (away or overslept) and not others:
            self._failed.clear()
        elsewhere = others and isinstance(error, Overloaded | ModelUnavailable | DeadlineExceeded)
        if not (away or elsewhere or overslept) or pause >= self.left_s:
            raise error
        if not self._budget.take():
            self._counts.add("refused")
            error.add_note("it was not sent again: the retry limit of this client is spent")
            raise error
        self._counts.add("retries")
        return pause

    def expired(self, model: str) -> RequestError:
        """The error when no time is left for another try."""
        return self._problem or DeadlineExceeded(f"{model}: no answer within the time-out; give a longer one")
