"""The watch itself: which events are ready, what becomes of each, and what to do while the server is away."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rfserve.clients.errors import (
    ClientError,
    InvalidAnswer,
    Overloaded,
    RequestError,
    RequestRejected,
)
from rfserve.clients.plain_text import utc_text
from rfserve.clients.watch.folder import Arrival
from rfserve.clients.watch.journal import Journal
from rfserve.export.spec import RfserveError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
# An event at which the server goes away again and again, while others pass, is not retried for ever.
MOST_SETBACKS = 5


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often to look, and how long an event's files have to be unchanged before it counts as whole."""

    poll_s: float = 1.0
    settle_s: float = 2.0


class Watcher:
    """Locates every event that `scan` finds, once; the journal says which were.

    `locate(arrival, stamp)` gives the fields of the event's line, or raises. Failures of the server keep an event
    waiting; any other `RfserveError` is noted, and the event is tried again only when its files change. `tell` gets
    each line as it was written, `warn` a text for people.
    """

    def __init__(
        self,
        *,
        scan: Callable[[], Sequence[Arrival]],
        locate: Callable[[Arrival, str], dict[str, Any]],
        journal: Journal,
        pace: Pace,
        tell: Callable[[dict[str, Any]], None],
        warn: Callable[[str], None],
    ) -> None:
        self._scan, self._locate, self._journal, self._pace = scan, locate, journal, pace
        self._tell, self._warn = tell, warn
        self._seen: dict[str, tuple[str, float]] = {}
        self._blamed: set[str] = set()
        self._setbacks: dict[str, int] = {}
        self._pause_s = FIRST_PAUSE_S
        self._away: str | None = None
        self.failed = 0

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set; a folder that is away for a while is waited for."""
        while not stop.is_set():
            try:
                arrivals = self._scan()
            except ClientError as error:
                self._warn(str(error))
                stop.wait(self._next_pause_s())
                continue
            self.look(stop, arrivals)
            stop.wait(self._pace.poll_s if self._away is None else self._next_pause_s())

    def run_once(self, stop: threading.Event) -> list[Arrival]:
        """Locate what is there and whole; the events that are not, or that wait for the server."""
        waiting = self.look(stop, self._scan())
        if waiting and self._away is None and self._pace.settle_s > 0 and not stop.wait(self._pace.settle_s):
            waiting = self.look(stop, self._scan())
        return waiting

    @property
    def away(self) -> str | None:
        """Why the server cannot be asked; None when it can."""
        return self._away

    def look(self, stop: threading.Event, found: Sequence[Arrival]) -> list[Arrival]:
        """Locate what is ready of what was found; the events that wait."""
        arrivals = [a for a in found if self._is_open(a)]
        ready = [a for a in arrivals if self._is_settled(a)]
        # One that the server may have gone away at does not stand before the others.
        ready.sort(key=lambda a: (a.name in self._blamed, self._setbacks.get(a.name, 0)))
        while ready and not stop.is_set():
            arrival = ready[0]
            if not self._process(arrival):
                break
            ready.pop(0)
        # Also those that changed while they were located.
        return [a for a in arrivals if self._is_open(a)]

    def _is_open(self, arrival: Arrival) -> bool:
        line = self._journal.last(arrival.name)
        if line is None:
            return True
        return bool(line["outcome"] == "failed" and line["stamp"] != arrival.stamp())

    def _is_settled(self, arrival: Arrival) -> bool:
        stamp, now = arrival.stamp(), time.monotonic()
        before, since = self._seen.get(arrival.name, (None, now))
        if before != stamp:
            since = now
        self._seen[arrival.name] = (stamp, since)
        return not arrival.missing and now - since >= self._pace.settle_s

    def _process(self, arrival: Arrival) -> bool:
        """Whether the event is done with for now; False when the server is away."""
        stamp = arrival.stamp()
        try:
            fields = {"outcome": "fix", **self._locate(arrival, stamp)}
        except RequestError as error:
            given_up = self._setbacks.get(arrival.name, 0) >= MOST_SETBACKS
            if not given_up and not isinstance(error, RequestRejected | InvalidAnswer):
                self._is_away(arrival, error)
                return False
            fields = _failure(error)
        except RfserveError as error:
            fields = _failure(error)
        if arrival.stamp() != stamp:
            # Somebody still writes to it: what was read may be half of each.
            self._seen.pop(arrival.name, None)
            return True
        known = {"event": arrival.name, "stamp": stamp, "recordings": len(arrival.recordings)}
        line = {**known, "at": utc_text(time.time_ns()), **fields}
        self._journal.append(line)
        self._seen.pop(arrival.name, None)
        self._blamed.discard(arrival.name)
        if fields["outcome"] == "fix":
            self._is_back()
        else:
            self.failed += 1
        self._tell(line)
        return True

    def _is_away(self, arrival: Arrival, error: RequestError) -> None:
        if self._away is None:
            self._warn(f"{arrival.name} waits: {error}")
        self._away = str(error)
        # The event itself may be what ends the server, or the model's process; nobody dies of a full queue.
        if not isinstance(error, Overloaded):
            self._blamed.add(arrival.name)

    def _is_back(self) -> None:
        if self._away is not None:
            self._warn("the server answers again")
        self._away, self._pause_s = None, FIRST_PAUSE_S
        for name in self._blamed:
            self._setbacks[name] = self._setbacks.get(name, 0) + 1
        self._blamed.clear()

    def _next_pause_s(self) -> float:
        # Watchers that lost one server together must not come back together.
        pause = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause


def _failure(error: Exception) -> dict[str, Any]:
    return {"outcome": "failed", "error": type(error).__name__, "reason": str(error)}
