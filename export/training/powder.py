"""The POWDER outdoor RSS data set (https://zenodo.org/records/7259895, MIT, University of Utah).

A walkie-talkie of 1 W at 462.7 MHz is carried over a campus, and 10 to 26 receivers measure it: fixed ones on roofs and
walls, and moving ones on shuttles. It comes as a table of one-transmitter events with `location_coordinates.json`
beside it, or as JSON files of events with any number of transmitters. Nothing of it is part of this project.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.export.errors import DataError
from rfserve.export.training.rss_event import RssEvent

# What the table holds for a receiver that did not hear the transmission.
UNHEARD_DB = -101.0
LOCATIONS = "location_coordinates.json"
TABLE = "single_tx_train.csv"
GET_IT = "get the POWDER RSS data set from Zenodo, record 7259895"


def read(path: Path) -> list[RssEvent]:
    """The one-transmitter events of a table (.csv), of a file of events (.json) or of a folder with the table.

    Receivers that heard nothing, and shuttles without a position, are left out; so are events that nobody heard.
    `DataError` when the file is missing or is not one of these.
    """
    if path.is_dir():
        path /= TABLE
    readers = {".csv": _read_table, ".json": _read_events}
    if path.suffix not in readers:
        raise DataError(f"{path.name}: expected a .csv table, a .json file of events or their folder; {GET_IT}")
    try:
        events = readers[path.suffix](path)
    except OSError as error:
        raise DataError(f"no events at {path}: {error.strerror}; {GET_IT}") from error
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, csv.Error) as error:
        raise DataError(f"{path.name} is not of the POWDER data set ({error!r}); {GET_IT}") from error
    if not events:
        raise DataError(f"{path.name} holds no event of one transmitter that a receiver heard; {GET_IT}")
    return events


def _read_table(path: Path) -> list[RssEvent]:
    places: Mapping[str, Sequence[float] | None] = json.loads((path.parent / LOCATIONS).read_text())
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        heard = []
        for name, place in places.items():
            # A shuttle has no place in the list: its own is in the row.
            held = [row[f"{name}_x"], row[f"{name}_y"]] if place is None else place
            heard.append((row[f"{name}_rss" if place is None else name], *held, name))
        found.append((row["timestamp"], heard, (row["tx_x_coord"], row["tx_y_coord"])))
    return _events(found)


def _read_events(path: Path) -> list[RssEvent]:
    content: Mapping[str, Any] = json.loads(path.read_text())
    return _events(
        [(time, held["rx_data"], held["tx_coords"][0]) for time, held in content.items() if len(held["tx_coords"]) == 1]
    )


def _events(found: Sequence[tuple[str, Sequence[Sequence[Any]], Sequence[Any]]]) -> list[RssEvent]:
    events = []
    for time, heard, transmitter in found:
        kept = [
            (str(name), float(rss), float(latitude), float(longitude))
            for rss, latitude, longitude, name in heard
            if rss is not None and _is_heard(float(rss), float(latitude), float(longitude))
        ]
        if not kept:
            continue
        events.append(
            RssEvent(
                time=time,
                names=tuple(k[0] for k in kept),
                rss_db=np.array([k[1] for k in kept]),
                receivers_deg=np.array([k[2:] for k in kept]),
                transmitter_deg=np.array([float(t) for t in transmitter]),
            )
        )
    return sorted(events, key=lambda event: event.time)


def _is_heard(rss_db: float, latitude_deg: float, longitude_deg: float) -> bool:
    """Shuttles without a position write 0, 0 in the one form of the data, and -1, -1 in the other."""
    has_place = (latitude_deg, longitude_deg) not in {(0.0, 0.0), (-1.0, -1.0)}
    return math.isfinite(rss_db) and rss_db > UNHEARD_DB and has_place
