"""Which events are learned from and which are held out.

Never at random: events of one walk are seconds and metres apart, so a random split asks for what was learned by heart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from rfserve.export.errors import DataError
from rfserve.export.training.plane import around
from rfserve.export.training.rss_event import RssEvent, truths_deg

CELL_M = 200.0
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Split:
    """Events to learn from and events that are held out, and what sets them apart; with nothing held out, nothing is
    known of the places between.
    """

    name: str
    learned: tuple[RssEvent, ...]
    held_out: tuple[RssEvent, ...]

    def __post_init__(self) -> None:
        if not self.learned:
            raise DataError(f"split {self.name}: got 0 events to learn from; give more data, or another split")

    @property
    def judged(self) -> "Split":
        """Itself; `DataError` when it holds nothing out that could be judged by."""
        if not self.held_out:
            raise DataError(
                f"split {self.name}: got {len(self.learned)} events to learn from and 0 held out; "
                "expected some of both: give more data, or another split"
            )
        return self

    def strongest(self, receivers: int) -> "Split":
        """The same events as their strongest receivers alone had them."""
        return Split(
            name=f"{self.name}, {receivers} strongest receivers",
            learned=tuple(e.strongest(receivers) for e in self.learned),
            held_out=tuple(e.strongest(receivers) for e in self.held_out),
        )


def everything(events: Sequence[RssEvent]) -> Split:
    """Hold nothing out: for weights that go to users, when folds have shown what the recipe is worth."""
    return Split(name="everything, nothing held out", learned=tuple(events), held_out=())


def by_place(
    events: Sequence[RssEvent], *, fold: int = 0, folds: int = FOLDS, cell_m: float = CELL_M, seed: int = 0
) -> Split:
    """Hold out one fold of the cells of a square grid in which the transmitters stood; every cell is in one fold.

    `DataError` when the fold is not one of `folds`, or there are fewer cells than folds.
    """
    if not 0 <= fold < folds:
        raise DataError(f"fold: got {fold}; expected 0 to {folds - 1}")
    places = truths_deg(events)
    cells = [tuple(c) for c in np.floor(around(places).metres(places) / cell_m).astype(int)]
    distinct = sorted(set(cells))
    order = np.random.default_rng(seed).permutation(len(distinct))
    held = {distinct[i] for i in order[fold::folds]}
    return Split(
        name=f"places, {cell_m:g} m cells, fold {fold + 1} of {folds}",
        learned=tuple(e for e, c in zip(events, cells, strict=True) if c not in held),
        held_out=tuple(e for e, c in zip(events, cells, strict=True) if c in held),
    ).judged


def by_day(events: Sequence[RssEvent], *, since: str) -> Split:
    """Hold out the days from `since` (YYYY-MM-DD) on; `DataError` when that is no date."""
    try:
        is_date = date.fromisoformat(since).isoformat() == since
    except ValueError:
        is_date = False
    if not is_date:
        raise DataError(f"since: got {since!r}; expected a date, YYYY-MM-DD")
    return Split(
        name=f"days since {since}",
        learned=tuple(e for e in events if e.day < since),
        held_out=tuple(e for e in events if e.day >= since),
    ).judged


def by_source(name: str, learned: Sequence[RssEvent], held_out: Sequence[RssEvent]) -> Split:
    """Hold out all events of another source; `DataError` when some of them are in both."""
    known = {event.label for event in learned}
    shared = sum(event.label in known for event in held_out)
    if shared:
        raise DataError(
            f"split {name}: {shared} of {len(held_out)} events are learned from too, at the same time and place; "
            "expected none: name other events to learn from"
        )
    return Split(name=name, learned=tuple(learned), held_out=tuple(held_out)).judged
