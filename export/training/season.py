"""What another season does to receivers: their gains change, one is broken, some stand elsewhere.

A network that has never seen it trusts its fingerprints: on a season with other receivers it is as sure as ever, and
wrong. One that has seen it tells events that fit what it knows from those that do not.
"""

from dataclasses import dataclass

import torch

from rfserve.export.training.made_events import path_loss_db
from rfserve.export.training.noise_floor import total_db
from rfserve.export.training.path_loss import PathLoss
from rfserve.export.training.rss_table import UNHEARD, RssTable


@dataclass(frozen=True, kw_only=True)
class Season:
    """How events are changed; all deviations are standard ones in dB.

    In `gain_share` of the events, every receiver's gain changes by up to `gain_db` (the deviation is drawn from 0 to
    that for each event), and that of `broken_share` of the receivers by `broken_db` more. In `elsewhere_share` of the
    events, some receivers, from none to all, stand elsewhere: half of those anywhere in the box of all receivers, half
    `away_m` from where they were. What these measure is the path loss of all receivers with `unknown_db`, which is
    shadowing, above the noise that they had; for `odd_share` of them all is `odd_db[0]` to `odd_db[1]` more.
    """

    gain_share: float = 0.25
    gain_db: float = 8.0
    broken_share: float = 0.05
    broken_db: float = 15.0
    elsewhere_share: float = 0.15
    away_m: float = 250.0
    unknown_db: float = 10.0
    odd_share: float = 0.1
    odd_db: tuple[float, float] = (-20.0, 40.0)


def changed(table: RssTable, season: Season, loss: PathLoss, generator: torch.Generator) -> RssTable:
    """The events with receivers as another season might have them."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    count, width = table.rss_db.shape
    rss_db, places, heard = table.rss_db, table.receivers_m, table.rss_db > UNHEARD
    known = places[heard]
    low, high = known.amin(0), known.amax(0)
    anywhere = low + (high - low) * uniform(count, width, 2)
    near = places + season.away_m * normal(count, width, 2)
    there = torch.where(uniform(count, width, 1) < 0.5, anywhere, near)
    odd = season.odd_db[0] + (season.odd_db[1] - season.odd_db[0]) * uniform(count, width)
    odd = odd * (uniform(count, width) < season.odd_share)
    signal_db = path_loss_db(loss, there, table.truths_m) + season.unknown_db * normal(count, width)
    measured = total_db(signal_db, table.floor_db) + odd
    share = uniform(count, 1) * (uniform(count, 1) < season.elsewhere_share)
    moved = heard & (uniform(count, width) < share)
    rss_db = torch.where(moved, measured, rss_db)
    floor_db = torch.where(moved, table.floor_db + odd, table.floor_db)
    places = torch.where(moved.unsqueeze(-1), there, places)
    gain = season.gain_db * uniform(count, 1) * normal(count, width)
    gain = gain + season.broken_db * normal(count, width) * (uniform(count, width) < season.broken_share)
    gain = gain * (uniform(count, 1) < season.gain_share)
    return RssTable(rss_db=rss_db + gain, receivers_m=places, truths_m=table.truths_m, floor_db=floor_db + gain)
