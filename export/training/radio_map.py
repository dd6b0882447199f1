"""Which strength each receiver would have measured of a transmitter at places where nobody stood.

Receivers that do not move have shadowing that was learned (`training/shadowing.py`). Moving ones share a path loss of
their own and have independent shadowing. The receivers' noise is below both of them (`training/noise_floor.py`).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from rfserve.export.training import floors
from rfserve.export.training.made_events import MadeEvents, Moment
from rfserve.export.training.noise_floor import Numbers
from rfserve.export.training.path_loss import NEAREST_M, Heard, PathLoss
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent, truths_deg
from rfserve.export.training.shadowing import Shadowed

# Fewer places than these say nothing of shadowing.
FEWEST = 50
# Events before and after one, that say which receivers were on air: some minutes of a walk.
NEIGHBOURS = 40


class RadioMap:
    """Learned from events; `made_events` are what it expects of places where nobody stood.

    `common` is the path loss of all receivers, `moving` of those that move: they hear a transmitter from the street,
    not from a roof.
    """

    def __init__(self, events: Sequence[RssEvent], plane: Plane, *, seed: int) -> None:
        self._seed = seed
        self._events = tuple(events)
        self._truths = plane.metres(truths_deg(events))
        self._places = [plane.metres(e.receivers_deg) for e in events]
        self.floors = floors.learned(events, plane)
        heard: dict[str, list[tuple[Numbers, Numbers, float, float]]] = {}
        for event, truth, places in zip(events, self._truths, self._places, strict=True):
            for name, place, rss_db in zip(event.names, places, event.rss_db, strict=True):
                heard.setdefault(name, []).append((truth, place, rss_db, self.floors[name, event.day]))
        tables = {name: Heard.of(heard[name]) for name in sorted(heard)}
        self.common = PathLoss.under_noise(Heard.joined(list(tables.values())))
        moving = {name: table for name, table in tables.items() if np.ptp(table.places_m, 0).max() >= NEAREST_M}
        self.moving = PathLoss.under_noise(Heard.joined(list(moving.values()))) if moving else self.common
        self._fixed = {name: t for name, t in tables.items() if len(t.rss_db) >= FEWEST and name not in moving}

    @cached_property
    def receivers(self) -> dict[str, Shadowed]:
        """The fixed receivers that are known well enough, by name; learned when first asked for: some seconds."""
        rng = np.random.default_rng(self._seed)
        return {name: Shadowed.learned(heard, self.common, rng) for name, heard in self._fixed.items()}

    def made_events(
        self, count: int, *, seed: int, spread_m: float, anywhere: float, far: float, far_m: float, weakest_db: float
    ) -> MadeEvents | None:
        """What all fixed receivers would measure of `count` places; None when no fixed receiver is known well enough.

        Places are those of learned events moved by `spread_m` (standard deviation), a share of `anywhere` lies anywhere
        in their box, and one of `far` up to `far_m` from its middle, at every distance as often. On air are, with each
        learned event, the fixed receivers that were heard within a few minutes of it, and the moving ones where they
        were. What falls below `weakest_db` is not heard.
        """
        if not self.receivers:
            return None
        rng = np.random.default_rng(seed)
        places = self._truths[rng.integers(0, len(self._events), count)] + rng.normal(0, spread_m, (count, 2))
        kind = rng.random(count)
        loose, away = kind < anywhere, kind >= 1.0 - far
        low, high = self._truths.min(0) - spread_m, self._truths.max(0) + spread_m
        places[loose] = rng.uniform(low, high, (int(loose.sum()), 2))
        bearing, distance_m = rng.uniform(0.0, 2 * np.pi, count), rng.uniform(0.0, far_m, count)
        outward = np.stack([np.cos(bearing), np.sin(bearing)], 1) * distance_m[:, None]
        places[away] = ((low + high) / 2 + outward)[away]
        return MadeEvents.of(
            places,
            [held.predict(places) for held in self.receivers.values()],
            [self._on_air(number) for number in range(len(self._events))],
            moving=self.moving,
            weakest_db=weakest_db,
        )

    def _on_air(self, number: int) -> Moment:
        """Which fixed receiver (-1 for one that moves) stood where, above which noise, at a learned event."""
        event = self._events[number]
        near = self._events[max(0, number - NEIGHBOURS) : number + NEIGHBOURS + 1]
        heard = {name for other in near if other.day == event.day for name in other.names}
        fixed = [
            (i, held.place_m, self.floors[name, event.day])
            for i, (name, held) in enumerate(self.receivers.items())
            if name in heard
        ]
        names = zip(event.names, self._places[number], strict=True)
        return fixed + [
            (-1, place, self.floors[name, event.day]) for name, place in names if name not in self.receivers
        ]
