"""Which strength each receiver would have measured of a transmitter at places where nobody stood.

For every receiver that does not move, a Gaussian process over the transmitter's place: log-distance path loss as its
mean, and shadowing that is alike at places near each other (Gudmundson 1991: correlation exp(-d / 40 to 160 m), beside
a smoother part of 300 m). A moving receiver gets the path loss of all of them and independent shadowing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from rfserve.export.training.path_loss import NEAREST_M, Numbers, PathLoss, log_distance
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent, truths_deg

# Correlation lengths and measurement variances that are tried for each receiver; the likeliest is kept.
LENGTHS_M = (40.0, 80.0, 160.0)
NOISES_DB2 = (4.0, 9.0, 16.0)
SMOOTH_M, ROUGH_SHARE = 300.0, 0.6
LEAST_VARIANCE_DB2 = 4.0
# Fewer places than these say nothing of shadowing; more than those cost time and add little.
FEWEST, MOST = 50, 700
# How much the slope of one receiver is held to that of all, in events.
SLOPE_PRIOR = 20.0


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
    """Learned from events; `draw` makes new ones."""

    def __init__(self, events: Sequence[RssEvent], plane: Plane, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._events, self._plane = tuple(events), plane
        self._truths = plane.metres(truths_deg(events))
        self._receivers = [plane.metres(e.receivers_deg) for e in events]
        heard: dict[str, list[tuple[Numbers, Numbers, np.float64]]] = {}
        for event, truth, places in zip(events, self._truths, self._receivers, strict=True):
            for name, place, rss_db in zip(event.names, places, event.rss_db, strict=True):
                heard.setdefault(name, []).append((truth, place, rss_db))
        tables = {name: [np.array(column) for column in zip(*heard[name], strict=True)] for name in sorted(heard)}
        logs = np.concatenate([log_distance(truths, places) for truths, places, _ in tables.values()])
        self.common = PathLoss.fitted(logs, np.concatenate([rss_db for _, _, rss_db in tables.values()]))
        self.receivers: dict[str, Shadowed] = {}
        for name, (truths, places, rss_db) in tables.items():
            if len(rss_db) >= FEWEST and np.ptp(places, 0).max() < NEAREST_M:
                self.receivers[name] = _shadowed(truths, places[0], rss_db, self.common, rng)

    def draw(self, count: int, *, seed: int, spread_m: float, anywhere: float, weakest_db: float) -> list[RssEvent]:
        """`count` events at new places, with the receivers on air, and the shuttles where they were, of a learned one.

        Places are those of learned events moved by `spread_m` (standard deviation), and a share of `anywhere` lies
        anywhere in their box. What falls below `weakest_db` is not heard; events that nobody hears are left out.
        """
        rng = np.random.default_rng(seed)
        near = rng.integers(0, len(self._events), count)
        places = self._truths[near] + rng.normal(0, spread_m, (count, 2))
        on_air = rng.integers(0, len(self._events), count)
        loose = rng.random(count) < anywhere
        low, high = self._truths.min(0) - spread_m, self._truths.max(0) + spread_m
        places[loose] = rng.uniform(low, high, (int(loose.sum()), 2))
        known = {name: held.predict(places) for name, held in self.receivers.items()}
        events = []
        for row, number in enumerate(on_air):
            event = self._events[number]
            mean = self.common.at(log_distance(self._receivers[number], places[row]))
            deviation = np.full(len(mean), self.common.sigma_db)
            for i, name in enumerate(event.names):
                if name in known:
                    mean[i], deviation[i] = known[name][0][row], known[name][1][row]
            rss_db = mean + deviation * rng.normal(size=len(mean))
            kept = np.flatnonzero(rss_db > weakest_db)
            if len(kept):
                truth = self._plane.degrees(places[row])
                events.append(replace(event.kept(kept), rss_db=rss_db[kept], transmitter_deg=truth))
        return events


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
    kept = np.sort(rng.permutation(len(left))[:MOST])
    best: tuple[float, float, GaussianProcessRegressor] | None = None
    for length in LENGTHS_M:
        for noise in NOISES_DB2:
            variance = max(float(np.var(left)) - noise, LEAST_VARIANCE_DB2)
            rough = ConstantKernel(ROUGH_SHARE * variance) * Matern(length, nu=0.5)
            smooth = ConstantKernel((1 - ROUGH_SHARE) * variance) * RBF(SMOOTH_M)
            process = GaussianProcessRegressor(rough + smooth, alpha=noise, optimizer=None)
            process.fit(truths_m[kept], left[kept])
            likely = float(process.log_marginal_likelihood_value_)
            if best is None or likely > best[0]:
                best = (likely, noise, process)
    assert best is not None  # noqa: S101 - the lists above are not empty
    loss = PathLoss(slope_db=float(slope), level_db=float(level), sigma_db=float(np.std(left)))
    return Shadowed(place_m=place_m, loss=loss, left=best[2], noise_db2=best[1])
