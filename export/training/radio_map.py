"""Which strength each receiver would have measured of a transmitter at places where nobody stood.

For every receiver that does not move, a Gaussian process over the transmitter's place: log-distance path loss as its
mean, and shadowing that is alike at places near each other (Gudmundson 1991: correlation exp(-d / 40 to 160 m), beside
a smoother part of 300 m). Moving receivers share a path loss of their own and have independent shadowing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from rfserve.export.training.made_events import MadeEvents
from rfserve.export.training.path_loss import NEAREST_M, Numbers, PathLoss, log_distance
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent, truths_deg

# Correlation lengths and measurement variances that are tried for each receiver; the likeliest is kept.
LENGTHS_M = (40.0, 80.0, 160.0)
NOISES_DB2 = (4.0, 9.0, 16.0)
SMOOTH_M, ROUGH_SHARE = 300.0, 0.6
LEAST_VARIANCE_DB2 = 4.0
# Fewer places than these say nothing of shadowing. Some are enough to choose the lengths.
FEWEST, CHOOSING, MOST = 50, 700, 2500
# How much the slope of one receiver is held to that of all, in events.
SLOPE_PRIOR = 20.0
# Events before and after one, that say which receivers were on air: some minutes of a walk.
NEIGHBOURS = 40
# Of one receiver, or several: truths (n, 2), places (n, 2) and strengths (n,).
Table = tuple[Numbers, Numbers, Numbers]


@dataclass(frozen=True, kw_only=True)
class Shadowed:
    """One fixed receiver: where it stands in metres, its path loss, and the process of what is left."""

    place_m: Numbers
    loss: PathLoss
    left: GaussianProcessRegressor
    noise_db2: float

    def predict(self, places_m: Numbers) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation in dB of what it measures of transmitters at (n, 2)."""
        mean, deviation = self.left.predict(places_m, return_std=True)
        return self.loss.at(log_distance(places_m, self.place_m)) + mean, np.sqrt(deviation**2 + self.noise_db2)


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
        heard: dict[str, list[tuple[Numbers, Numbers, np.float64]]] = {}
        for event, truth, places in zip(events, self._truths, self._places, strict=True):
            for name, place, rss_db in zip(event.names, places, event.rss_db, strict=True):
                heard.setdefault(name, []).append((truth, place, rss_db))
        tables = {name: _columns(heard[name]) for name in sorted(heard)}
        self.common = _path_loss(tables.values())
        moving = {name: table for name, table in tables.items() if np.ptp(table[1], 0).max() >= NEAREST_M}
        self.moving = _path_loss(moving.values()) if moving else self.common
        self._fixed = {name: t for name, t in tables.items() if len(t[2]) >= FEWEST and name not in moving}

    @cached_property
    def receivers(self) -> dict[str, Shadowed]:
        """The fixed receivers that are known well enough, by name; learned when first asked for: some seconds."""
        rng = np.random.default_rng(self._seed)
        return {
            name: _shadowed(truths, places[0], rss_db, self.common, rng)
            for name, (truths, places, rss_db) in self._fixed.items()
        }

    def made_events(
        self, count: int, *, seed: int, spread_m: float, anywhere: float, weakest_db: float
    ) -> MadeEvents | None:
        """What all fixed receivers would measure of `count` places; None when no fixed receiver is known well enough.

        Places are those of learned events moved by `spread_m` (standard deviation), and a share of `anywhere` lies
        anywhere in their box. On air are, with each learned event, the fixed receivers that were heard within a few
        minutes of it, and the moving ones where they were. What falls below `weakest_db` is not heard.
        """
        if not self.receivers:
            return None
        rng = np.random.default_rng(seed)
        places = self._truths[rng.integers(0, len(self._events), count)] + rng.normal(0, spread_m, (count, 2))
        loose = rng.random(count) < anywhere
        low, high = self._truths.min(0) - spread_m, self._truths.max(0) + spread_m
        places[loose] = rng.uniform(low, high, (int(loose.sum()), 2))
        return MadeEvents.of(
            places,
            [held.predict(places) for held in self.receivers.values()],
            [self._on_air(number) for number in range(len(self._events))],
            moving=self.moving,
            weakest_db=weakest_db,
        )

    def _on_air(self, number: int) -> list[tuple[int, Numbers]]:
        """Which fixed receiver (-1 for one that moves) stood where, at a learned event."""
        event = self._events[number]
        near = self._events[max(0, number - NEIGHBOURS) : number + NEIGHBOURS + 1]
        heard = {name for other in near if other.day == event.day for name in other.names}
        fixed = [(i, held.place_m) for i, (name, held) in enumerate(self.receivers.items()) if name in heard]
        names = zip(event.names, self._places[number], strict=True)
        return fixed + [(-1, place) for name, place in names if name not in self.receivers]


def _columns(rows: Sequence[tuple[Numbers, Numbers, np.float64]]) -> Table:
    truths, places, rss_db = zip(*rows, strict=True)
    return np.array(truths), np.array(places), np.array(rss_db)


def _path_loss(tables: Iterable[Table]) -> PathLoss:
    held = list(tables)
    logs = np.concatenate([log_distance(truths, places) for truths, places, _ in held])
    return PathLoss.fitted(logs, np.concatenate([rss_db for _, _, rss_db in held]))


def _shadowed(
    truths_m: Numbers, place_m: Numbers, rss_db: Numbers, common: PathLoss, rng: np.random.Generator
) -> Shadowed:
    logs = log_distance(truths_m, place_m)
    # A line through the receiver's own strengths, drawn to the common one (ridge regression).
    columns = np.stack([logs, np.ones_like(logs)], 1)
    prior = np.diag([SLOPE_PRIOR, 0.1])
    towards = np.array([common.slope_db, common.level_db])
    slope, level = np.linalg.solve(columns.T @ columns + prior, columns.T @ rss_db + prior @ towards)
    left = rss_db - level - slope * logs
    order = rng.permutation(len(left))
    some, most = np.sort(order[:CHOOSING]), np.sort(order[:MOST])
    best: tuple[float, float, GaussianProcessRegressor] | None = None
    for length in LENGTHS_M:
        for noise in NOISES_DB2:
            variance = max(float(np.var(left)) - noise, LEAST_VARIANCE_DB2)
            rough = ConstantKernel(ROUGH_SHARE * variance) * Matern(length, nu=0.5)
            smooth = ConstantKernel((1 - ROUGH_SHARE) * variance) * RBF(SMOOTH_M)
            process = GaussianProcessRegressor(rough + smooth, alpha=noise, optimizer=None)
            process.fit(truths_m[some], left[some])
            likely = float(process.log_marginal_likelihood_value_)
            if best is None or likely > best[0]:
                best = (likely, noise, process)
    assert best is not None  # noqa: S101 - the lists above are not empty
    loss = PathLoss(slope_db=float(slope), level_db=float(level), sigma_db=float(np.std(left)))
    return Shadowed(place_m=place_m, loss=loss, left=best[2].fit(truths_m[most], left[most]), noise_db2=best[1])
