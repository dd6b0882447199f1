"""What a fix has to beat: simple ways to locate a transmitter from received signal strengths.

Every way is a function of the events that it learns from and of those that it locates, and gives metres north and east
on the plane that it is given, (events, 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.neighbors import KNeighborsRegressor

from rfserve.export.training.path_loss import PathLoss, log_distance
from rfserve.export.training.plane import Plane
from rfserve.export.training.powder import UNHEARD_DB
from rfserve.export.training.rss_event import RssEvent, truths_deg

Metres = NDArray[np.float64]
Baseline = Callable[[Sequence[RssEvent], Sequence[RssEvent], Plane], Metres]

NEIGHBOURS = 5
TREES = 300
# Strengths that are farther off than this count less than their square.
OUTLIER_DB = 6.0
# A search starts so far from the edge of where it may go.
MARGIN_M = 1.0


def strongest_receiver(learned: Sequence[RssEvent], asked: Sequence[RssEvent], plane: Plane) -> Metres:  # noqa: ARG001
    """Where the receiver stands that received most."""
    return plane.metres(np.array([e.receivers_deg[np.argmax(e.rss_db)] for e in asked]))


def weighted_centroid(learned: Sequence[RssEvent], asked: Sequence[RssEvent], plane: Plane) -> Metres:  # noqa: ARG001
    """The mean of the receivers, each weighted by the amplitude it received, 10^(dB/20)."""
    found = []
    for event in asked:
        weight = 10 ** ((event.rss_db - event.rss_db.max()) / 20)
        found.append((weight[:, None] * event.receivers_deg).sum(0) / weight.sum())
    return plane.metres(np.array(found))


def path_loss_fit(learned: Sequence[RssEvent], asked: Sequence[RssEvent], plane: Plane) -> Metres:
    """The place from which log-distance path loss, rss = a - b log10(distance), leaves the least squares.

    b and a typical a are those of a line through all that was learned; a is fitted anew for each event. The search
    starts at the weighted centroid and stays within the receivers' box and what was learned.
    """
    truths = plane.metres(truths_deg(learned))
    logs = [log_distance(plane.metres(e.receivers_deg), truth) for e, truth in zip(learned, truths, strict=True)]
    loss = PathLoss.fitted(np.concatenate(logs), np.concatenate([e.rss_db for e in learned]))
    # Few events, or a walk straight to the north, leave no room to search.
    low, high = truths.min(0), np.maximum(truths.max(0), truths.min(0) + 2 * MARGIN_M)
    starts = np.clip(weighted_centroid(learned, asked, plane), low + MARGIN_M, high - MARGIN_M)
    found = []
    for event, start in zip(asked, starts, strict=True):
        fit = least_squares(  # type: ignore[operator]
            _misfit,
            [*start, loss.level_db],
            bounds=([*low, -np.inf], [*high, np.inf]),
            loss="soft_l1",
            f_scale=OUTLIER_DB,
            args=(plane.metres(event.receivers_deg), event.rss_db, loss),
        )
        found.append(fit.x[:2])
    return np.array(found)


def _misfit(x: Metres, receivers_m: Metres, rss_db: Metres, loss: PathLoss) -> Metres:
    """What a transmitter at x[:2] with the level x[2] leaves of each strength, in dB."""
    return np.asarray(replace(loss, level_db=x[2]).at(log_distance(receivers_m, x[:2])) - rss_db)


def nearest_neighbours(learned: Sequence[RssEvent], asked: Sequence[RssEvent], plane: Plane) -> Metres:
    """The mean of the five places, or of all that were learned, where strengths at all receivers were most alike."""
    ways = KNeighborsRegressor(min(NEIGHBOURS, len(learned)))
    return _regressed(ways, learned, asked, plane)


def extra_trees(learned: Sequence[RssEvent], asked: Sequence[RssEvent], plane: Plane) -> Metres:
    """Extremely randomised trees (Geurts et al. 2006) on the strengths at all receivers."""
    ways = ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)
    return _regressed(ways, learned, asked, plane)


def _regressed(
    ways: Any,
    learned: Sequence[RssEvent],
    asked: Sequence[RssEvent],
    plane: Plane,
) -> Metres:
    names = sorted({n for e in learned for n in e.names})
    truths = plane.metres(truths_deg(learned))
    ways.fit(_fingerprints(learned, names), truths)
    return np.asarray(ways.predict(_fingerprints(asked, names)))


def _fingerprints(events: Sequence[RssEvent], names: Sequence[str]) -> NDArray[np.float64]:
    """Strengths (events, receivers), with what the data set writes for a receiver that heard nothing."""
    columns = {name: i for i, name in enumerate(names)}
    table = np.full((len(events), len(names)), UNHEARD_DB)
    for row, event in zip(table, events, strict=True):
        for name, rss_db in zip(event.names, event.rss_db, strict=True):
            if name in columns:
                row[columns[name]] = rss_db
    return table


BASELINES: dict[str, Baseline] = {
    "strongest receiver": strongest_receiver,
    "weighted centroid": weighted_centroid,
    "path-loss fit": path_loss_fit,
    f"{NEIGHBOURS} nearest neighbours": nearest_neighbours,
    "extra trees": extra_trees,
}
