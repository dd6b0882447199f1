"""Made-up walks with a transmitter, and files of them as the POWDER data set has them."""

import csv
import json
from pathlib import Path

import numpy as np

from rfserve.export.training import powder
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent

PLANE = Plane(origin_deg=(40.766, -111.842))


def walk(
    count: int = 60, seed: int = 3, *, day: str = "2022-07-05", receivers: int = 14, shadowing_db: float = 0.0
) -> list[RssEvent]:
    """Events of log-distance path loss, 20 dB at each tenfold, and shadowing at random."""
    rng = np.random.default_rng(seed)
    at = np.random.default_rng(1).uniform(-1000, 1000, (receivers, 2))
    events = []
    for number in range(count):
        truth = rng.uniform(-700, 700, 2)
        distance = np.maximum(np.hypot(*(at - truth).T), 10)
        events.append(
            RssEvent(
                time=f"{day} 10:{number // 60:02d}:{number % 60:02d}",
                names=tuple(f"r{i:02d}" for i in range(receivers)),
                rss_db=-20 - 20 * np.log10(distance) + rng.normal(0, shadowing_db, receivers),
                receivers_deg=PLANE.degrees(at),
                transmitter_deg=PLANE.degrees(truth),
            )
        )
    return events


def write_table(folder: Path, events: list[RssEvent]) -> Path:
    """The events as a table of fixed receivers, with their places beside it; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    first = events[0]
    places = dict(zip(first.names, first.receivers_deg.tolist(), strict=True))
    (folder / powder.LOCATIONS).write_text(json.dumps(places))
    with (folder / powder.TABLE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", *first.names, "tx_x_coord", "tx_y_coord"])
        writer.writerows([e.time, *e.rss_db, *e.transmitter_deg] for e in events)
    return folder
