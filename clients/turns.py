"""Whose event is sent next, of those that are ready: one as long as the one before it, if there is one.

A server joins requests of one shape only, and sends the batch that it is putting together as soon as a request of
another shape arrives. Receivers are padded to one number; samples cannot be, as zeros would be signal to the front end.
So recordings of different lengths share batches when they are sent next to those of their own length.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

# So many others may overtake the one that has waited longest, for each place.
PATIENCE = 4


class Ended(Exception):
    """Nobody waits for this event any more."""


@dataclass(kw_only=True, eq=False)
class Ticket:
    """An event of so many samples, and what to do when its turn has come."""

    samples: int
    begin: Callable[[], None]
    overtaken: int = 0


class Turns:
    """Lets `places` events be sent at a time; safe to use from several threads."""

    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._waiting: list[Ticket] = []
        self._samples: int | None = None
        self._ended = False
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, samples: int) -> Iterator[None]:
        """Wait for the turn of an event of so many samples; `Ended` when it never comes."""
        begun = threading.Event()
        ticket = self._ask(samples, begun.set)
        try:
            begun.wait()
            if self._ended:
                raise Ended
            yield
        finally:
            self._leave(ticket)

    @asynccontextmanager
    async def turn_async(self, samples: int) -> AsyncIterator[None]:
        """The same in an event loop, where waiting ends when it is cancelled."""
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = self._ask(samples, lambda: None if begun.done() else begun.set_result(None))
        try:
            await begun
            yield
        finally:
            self._leave(ticket)

    def end(self) -> None:
        """Whoever waits in a thread gives up; who is being sent goes on."""
        with self._lock:
            self._ended = True
            for ticket in self._waiting:
                ticket.begin()

    def _ask(self, samples: int, begin: Callable[[], None]) -> Ticket:
        ticket = Ticket(samples=samples, begin=begin)
        with self._lock:
            self._waiting.append(ticket)
            if self._ended:
                # Who comes after the end must not wait for it.
                begin()
            self._admit()
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._free += 1
                self._admit()

    def _admit(self) -> None:
        while self._free and self._waiting and not self._ended:
            following = self._following()
            for passed in self._waiting[: self._waiting.index(following)]:
                passed.overtaken += 1
            self._waiting.remove(following)
            self._free -= 1
            self._samples = following.samples
            following.begin()

    def _following(self) -> Ticket:
        oldest = self._waiting[0]
        if oldest.overtaken >= PATIENCE * self._places:
            return oldest
        return next((t for t in self._waiting if t.samples == self._samples), oldest)
