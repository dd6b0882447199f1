"""The receivers of one event: who remains, and who was left out and why."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, overload

from rfserve.clients.errors import ClientError, TooFewReceivers
from rfserve.clients.observation import Observation

LOG = logging.getLogger("rfserve.clients")

Receiver = TypeVar("Receiver")


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A receiver that was left out: its place in what was given, from 0, and the error that it had."""

    place: int
    name: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Event(Sequence[Observation]):
    """The observations of an event, as a sequence, and the receivers that were left out of it."""

    observations: tuple[Observation, ...]
    dropped: tuple[Dropped, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Observation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Observation]: ...
    def __getitem__(self, index: int | slice) -> Observation | Sequence[Observation]:
        return self.observations[index]

    def __len__(self) -> int:
        return len(self.observations)

    def __iter__(self) -> Iterator[Observation]:
        return iter(self.observations)


class Screen:
    """Decides what becomes of an event when some of its receivers fail; one object for each event.

    Without `minimum_receivers` the first failure ends it. That is the default: a fix from other receivers than those
    that were asked for is another fix, with another ellipse, and nobody should get it who did not ask for it. With it,
    receivers that fail are left out with a warning (logger `rfserve.clients`) as long as so many remain.
    """

    def __init__(self, minimum_receivers: int | None = None) -> None:
        if minimum_receivers is not None and minimum_receivers < 1:
            raise ClientError(f"minimum_receivers: got {minimum_receivers}; expected 1 or more")
        self.minimum_receivers = minimum_receivers
        self._dropped: dict[int, Dropped] = {}

    @property
    def is_tolerant(self) -> bool:
        """Whether receivers may be left out."""
        return self.minimum_receivers is not None

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """Those that were left out, in the order in which they were given."""
        return tuple(self._dropped[place] for place in sorted(self._dropped))

    def drop(self, place: int, name: str, error: ClientError) -> None:
        """The receiver that was given at `place`, from 0, fails: leave it out, or raise `error`."""
        if not self.is_tolerant:
            raise error
        LOG.warning("left out %s: %s", name, error)
        self._dropped[place] = Dropped(place=place, name=name, kind=type(error).__name__, reason=str(error))

    def remember(self, dropped: Dropped) -> None:
        """One that was left out before."""
        self._dropped[dropped.place] = dropped

    def keep(self, receivers: Mapping[int, Receiver], failures: Mapping[int, ClientError]) -> dict[int, Receiver]:
        """Those of `receivers` that have no failure; raises the first when none may be left out, or too few remain."""
        if failures and not self.is_tolerant:
            kinds = {type(e) for e in failures.values()}
            first = next(iter(failures.values()))
            if len(kinds) > 1 or len(failures) == 1:
                raise first
            raise type(first)("; ".join(str(e) for e in failures.values()))
        for place, error in failures.items():
            self.drop(place, str(getattr(receivers[place], "name", place)), error)
        left = {place: r for place, r in receivers.items() if place not in failures}
        self.require(len(left))
        return left

    def require(self, remaining: int) -> None:
        """`TooFewReceivers`, with everybody who was left out and why, unless enough remain."""
        if self._dropped and remaining < (self.minimum_receivers or 1):
            why = "; ".join(f"{d.name} ({d.kind}): {d.reason}" for d in self.dropped)
            raise TooFewReceivers(
                f"{remaining} receivers remain; expected at least {self.minimum_receivers}. Left out: {why}"
            )

    def places(self, count: int) -> list[int]:
        """The places, in what was given first, of `count` receivers that remain."""
        free = (p for p in range(count + len(self._dropped)) if p not in self._dropped)
        return [next(free) for _ in range(count)]

    def event(self, observations: Mapping[int, Observation]) -> Event:
        """What remains. A receiver without an id keeps the one that its place gives it, whoever was left out."""
        if self._dropped:
            observations = {
                place: o if o.receiver_id is not None else replace(o, receiver_id=place)
                for place, o in observations.items()
            }
        return Event(observations=tuple(observations.values()), dropped=self.dropped)
