"""What a fix loses when the event gets worse: fewer receivers, rougher strengths, other gains, misplaced receivers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rfserve.export.training import drawing
from rfserve.export.training.accuracy import Accuracy
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent

Locate = Callable[[Sequence[RssEvent]], Accuracy]
Change = Callable[[RssEvent, float, np.random.Generator, Plane], RssEvent]

RECEIVERS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
STRENGTH_ERRORS_DB = (0, 2, 4, 6, 8, 10, 15)
GAINS_DB = (-20, -15, -10, -5, 0, 5, 10)
POSITION_ERRORS_M = (0, 25, 50, 100, 200, 400)


def _some_receivers(event: RssEvent, count: float, rng: np.random.Generator, _: Plane) -> RssEvent:
    """Any of those that heard it, not the strongest: who listens is chance."""
    return event.kept(np.sort(rng.permutation(len(event.names))[: int(count)]))


def _rough_strengths(event: RssEvent, sigma_db: float, rng: np.random.Generator, _: Plane) -> RssEvent:
    return replace(event, rss_db=event.rss_db + rng.normal(0, 1, len(event.names)) * sigma_db)


def _other_gain(event: RssEvent, change_db: float, _: np.random.Generator, __: Plane) -> RssEvent:
    """All strengths lower or higher, noise as well as signals: another gain, not another transmitter's power."""
    return replace(event, rss_db=event.rss_db + change_db)


def _misplaced(event: RssEvent, sigma_m: float, rng: np.random.Generator, plane: Plane) -> RssEvent:
    moved = plane.metres(event.receivers_deg) + rng.normal(0, 1, event.receivers_deg.shape) * sigma_m
    return replace(event, receivers_deg=plane.degrees(moved))


@dataclass(frozen=True, kw_only=True)
class Study:
    """One way in which events get worse, and how far."""

    title: str
    axis: str
    steps: tuple[float, ...]
    change: Change


STUDIES = (
    Study(title="receivers", axis="receivers, any of them", steps=RECEIVERS, change=_some_receivers),
    Study(
        title="strength errors", axis="error of each strength (dB)", steps=STRENGTH_ERRORS_DB, change=_rough_strengths
    ),
    Study(title="gain", axis="gain of all receivers (dB)", steps=GAINS_DB, change=_other_gain),
    Study(title="positions", axis="error of each receiver's position (m)", steps=POSITION_ERRORS_M, change=_misplaced),
)


def study(
    events: Sequence[RssEvent], locate: Locate, plane: Plane, *, seed: int = 0
) -> Mapping[str, Mapping[float, Accuracy]]:
    """The accuracy of `locate` at every step of every study; the same chance at each step."""
    found = {}
    for one in STUDIES:
        at = {}
        for step in one.steps:
            rng = np.random.default_rng(seed)
            at[step] = locate([one.change(event, step, rng, plane) for event in events])
        found[one.title] = at
    return found


def draw(found: Mapping[str, Mapping[float, Accuracy]], file: Path) -> None:
    """Median and 90 % error, and the median sigma, against every step, as SVG."""
    with drawing.figure(file, 13, 3) as figure:
        for panel, one in zip(figure.subplots(1, len(STUDIES), sharey=True), STUDIES, strict=True):
            at = found[one.title]
            panel.plot(list(at), [a.error_m[2] for a in at.values()], "o-", markersize=3, label="90 % error")
            panel.plot(list(at), [a.sigma_m for a in at.values()], "s--", markersize=3, label="sigma, median")
            panel.plot(list(at), [a.error_m[0] for a in at.values()], "o-", markersize=3, label="median error")
            drawing.label(panel, one.axis)
        # All panels share it: set before the last is drawn, it would cut off what is higher there.
        figure.axes[0].set_ylim(bottom=0)
        figure.axes[0].set_ylabel("metres", fontsize=drawing.SMALL)
        figure.axes[0].legend(fontsize=7)
