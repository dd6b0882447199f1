"""Several servers behind one client: whose turn it is, and who is left alone for a while because it did not answer."""

import itertools
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

FIRST_REST_S = 1.0
LONGEST_REST_S = 30.0
LOSSES = 3
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Channel(Generic[T]):
    """One connection: `server` is the address that was given, `client` what speaks through it."""

    server: str
    client: T


class Servers(Generic[T]):
    """Channels in turn; safe to use from several threads.

    A server that did not answer rests, for 1 s at first and for twice as long each time, up to 30 s: another one is
    asked in its place, and one call tries it when the rest is over. When all rest, all are asked in turn.
    """

    def __init__(self, channels: Sequence[Channel[T]]) -> None:
        self.channels = tuple(channels)
        self._by_server: dict[str, list[Channel[T]]] = {}
        for channel in channels:
            self._by_server.setdefault(channel.server, []).append(channel)
        self._turns = itertools.count()
        self._wakes: dict[str, float] = {}
        self._rests_s: dict[str, float] = {}
        self._lost: dict[str, int] = {}
        self._lock = threading.Lock()

    def pick(self, avoid: Collection[str] = ()) -> Channel[T]:
        """The next channel, of a server that neither rests nor is to be avoided if there is one."""
        with self._lock:
            turn, now = next(self._turns), time.monotonic()
            names = list(self._by_server)
            resting = {n for n, wakes in self._wakes.items() if wakes > now}
            if len(resting) == len(names):
                resting = set()
            # Stable: among equals, the one whose turn it is.
            name = min(
                (names[(turn + i) % len(names)] for i in range(len(names))),
                key=lambda n: (n in avoid, n in resting),
            )
            if name in self._wakes and self._wakes[name] <= now:
                # This call is the one that tries it; the others stay away until it has answered.
                self._rests_s[name] = min(2 * self._rests_s[name], LONGEST_REST_S)
                self._wakes[name] = now + self._rests_s[name]
            own = self._by_server[name]
            return own[turn // len(names) % len(own)]

    def one_of_each(self) -> list[Channel[T]]:
        """A channel to each server."""
        return [own[0] for own in self._by_server.values()]

    def others(self, failed: Collection[str]) -> bool:
        """Whether a server is left that has not failed."""
        return any(n not in failed for n in self._by_server)

    def rest(self, channel: Channel[T]) -> None:
        """This one did not answer."""
        with self._lock:
            if channel.server not in self._wakes:
                self._rests_s[channel.server] = FIRST_REST_S
                self._wakes[channel.server] = time.monotonic() + FIRST_REST_S

    def lost(self, channel: Channel[T]) -> None:
        """Another one answered before it; after three in a row, without an answer of its own in between, it rests."""
        with self._lock:
            self._lost[channel.server] = self._lost.get(channel.server, 0) + 1
            rests = self._lost[channel.server] >= LOSSES
        if rests:
            self.rest(channel)

    def answered(self, channel: Channel[T]) -> None:
        """This one is there."""
        if channel.server in self._wakes or channel.server in self._lost:
            with self._lock:
                for known in (self._wakes, self._rests_s, self._lost):
                    known.pop(channel.server, None)
