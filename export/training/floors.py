"""Where every receiver's noise is, on every day: gains are not the same on all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rfserve.export.training.noise_floor import METER_DB, Numbers, expected_db
from rfserve.export.training.path_loss import Heard, PathLoss
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent

# With fewer strengths on a day, the receiver's lowest floor is taken.
FEWEST = 20
# A floor that changes nothing: so far below the weakest strength.
FAR_DB = 20.0
# Signals that a likelihood is summed over, in standard deviations around the path loss.
AROUND = np.linspace(-5, 5, 201)

Floors = Mapping[tuple[str, str], float]


def learned(events: Sequence[RssEvent], plane: Plane) -> Floors:
    """The floor in dB of every receiver, by name and day: of a few, that which makes its strengths likeliest."""
    days: dict[tuple[str, str], list[tuple[Numbers, Numbers, float, float]]] = {}
    for event in events:
        truth, places = plane.metres(event.transmitter_deg[None])[0], plane.metres(event.receivers_deg)
        for name, place, rss_db in zip(event.names, places, event.rss_db.tolist(), strict=True):
            days.setdefault((name, event.day), []).append((truth, place, rss_db, -np.inf))
    floors = {key: _likeliest(Heard.of(rows)) for key, rows in days.items() if len(rows) >= FEWEST}
    for name, day in days.keys() - floors.keys():
        others = [floor_db for (other, _), floor_db in floors.items() if other == name]
        weakest = min(rss_db for (other, _), rows in days.items() if other == name for _, _, rss_db, _ in rows)
        floors[name, day] = min(others, default=weakest - FAR_DB)
    return floors


def _likeliest(heard: Heard) -> float:
    lowest, low, quarter = np.percentile(heard.rss_db, (1, 5, 25))
    # The lowest quarter is noise, or some of it, or nothing is.
    candidates = (float(low + quarter) / 2, float(lowest), float(heard.rss_db.min()) - FAR_DB)
    return max(candidates, key=lambda floor_db: _log_likelihood(heard, floor_db))


def _log_likelihood(heard: Heard, floor_db: float) -> float:
    loss = PathLoss.under_noise(replace(heard, floor_db=np.full_like(heard.rss_db, floor_db)))
    signals = loss.at(heard.logs)[:, None] + loss.sigma_db * AROUND
    # An outlier is to weigh no more than some ordinary strengths.
    error = ((heard.rss_db[:, None] - expected_db(signals, floor_db)) / METER_DB) ** 2
    density = (np.exp(-(AROUND**2) / 2) * np.exp(-error / 2)).mean(1)
    return float(np.log(density + 1e-6).sum())
