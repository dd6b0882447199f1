"""A receivers file: names to ids and positions, as GeoJSON points or CSV.

CSV has a header and the columns `name,latitude_deg,longitude_deg,altitude_m,receiver_id,full_scale_dbm`; the last three
may be left out. GeoJSON is a FeatureCollection of Points, [longitude, latitude, altitude], with the other columns as
properties. A receiver that moves has no coordinates here: its recordings say where it was.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats.reading import Position
from rfserve.clients.geodesy import distance_m
from rfserve.clients.observation import check_position
from rfserve.clients.stored_samples import Bytes
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS

COLUMNS = ("name", "latitude_deg", "longitude_deg", "altitude_m", "receiver_id", "full_scale_dbm")
EXAMPLE = "name,latitude_deg,longitude_deg,altitude_m,receiver_id with a line as roof,45.07,7.69,240,0"
MOST_BYTES = 16 << 20
# Positions are often rounded to 0.01°; a wrong name is farther off.
APART_M = 2_000.0


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A receiver that is known by name; `position` is None for one that moves.

    `states_altitude` is False when its position says none: 0 then stands for it unless its recording knows better.
    """

    name: str
    receiver_id: int | None
    position: Position | None
    full_scale_dbm: float | None
    states_altitude: bool = True

    def place(self, recorded: Position | None) -> Position | None:
        """Its position, else the recorded one; `RecordingError` when the two are not the same place."""
        if self.position is None or recorded is None or recorded.is_unknown:
            return self.position or recorded
        known = (self.position.latitude_deg, self.position.longitude_deg)
        away_m = distance_m(known, (recorded.latitude_deg, recorded.longitude_deg))
        if away_m > APART_M:
            raise RecordingError(
                f"{self.name}: the receivers file places it {away_m / 1000:.1f} km from where its recording does; "
                "correct one of them, or leave its coordinates out of the receivers file"
            )
        return self.position if self.states_altitude else replace(self.position, altitude_m=recorded.altitude_m)


@dataclass(frozen=True, kw_only=True)
class Receivers:
    """The receivers of one file, by name."""

    file: str
    by_name: Mapping[str, Receiver]

    def find(self, name: str) -> Receiver:
        """The receiver of a recording, which has its name, or ends in it after a `_`, `-` or `.` (event_R1).

        `RecordingError` when the file does not have it.
        """
        ends = [r for r in self.by_name.values() if name.endswith(tuple(s + r.name for s in "_-."))]
        found = self.by_name.get(name) or max(ends, key=lambda r: len(r.name), default=None)
        if found is None:
            raise RecordingError(
                f"{name}: no such receiver in {self.file}, which has {', '.join(self.by_name)}; add it, or name the "
                "recording's receiver so"
            )
        return found


def read(path: Path) -> Receivers:
    """The receivers of a GeoJSON or CSV file; `RecordingError` or `PositionInvalid` names the wrong line."""
    whole = Bytes.whole(path)
    if whole.size > MOST_BYTES:
        raise RecordingError(f"{path.name} has {whole.size} bytes; expected a receivers file of {MOST_BYTES} at most")
    try:
        text = whole.pieces([(0, whole.size)]).decode("utf-8-sig")
        rows = _features(text) if text.lstrip().startswith("{") else _lines(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise RecordingError(
            f"cannot read {path.name}: {error}; expected GeoJSON points, or CSV with {EXAMPLE}"
        ) from error
    found: dict[str, Receiver] = {}
    ids: dict[int, str] = {}
    for place, row in rows:
        receiver = _receiver(f"{path.name}, {place}", row)
        if receiver.name in found:
            raise RecordingError(f"{path.name}, {place}: got {receiver.name} twice; expected each receiver once")
        if receiver.receiver_id is not None:
            if receiver.receiver_id in ids:
                raise RecordingError(
                    f"{path.name}, {place}: got receiver id {receiver.receiver_id} for {receiver.name} and "
                    f"{ids[receiver.receiver_id]}; expected one of its own for each"
                )
            ids[receiver.receiver_id] = receiver.name
        found[receiver.name] = receiver
    if ids and len(ids) != len(found):
        without = ", ".join(r.name for r in found.values() if r.receiver_id is None)
        raise RecordingError(f"{path.name} gives no id to {without}; expected one for each receiver, or for none")
    if not found:
        raise RecordingError(f"{path.name} names no receiver; expected CSV with {EXAMPLE}")
    return Receivers(file=path.name, by_name=found)


def _lines(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    rows = csv.DictReader(text.splitlines(), strict=True)
    columns = [c.strip() for c in rows.fieldnames or ()]
    if not set(COLUMNS[:3]) <= set(columns) or len(set(columns)) != len(columns):
        raise ValueError(f"got columns {', '.join(columns) or 'none'}")
    rows.fieldnames = columns
    found: list[tuple[str, Mapping[str, Any]]] = []
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"line {rows.line_num} has not {len(columns)} columns")
        found.append((f"line {rows.line_num}", {k: v.strip() or None for k, v in row.items()}))
    return found


def _features(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    content = json.loads(text)
    features = content.get("features")
    if content.get("type") != "FeatureCollection" or not isinstance(features, list):
        raise ValueError("it is no FeatureCollection")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, feature in enumerate(features, start=1):
        properties = feature.get("properties") if isinstance(feature, dict) else None
        if not isinstance(properties, dict):
            raise ValueError(f"feature {number} has no properties")
        found.append((f"feature {number}", {**properties, **_coordinates(number, feature.get("geometry"))}))
    return found


def _coordinates(number: int, geometry: object) -> dict[str, Any]:
    if geometry is None:
        return {}
    point = geometry.get("coordinates") if isinstance(geometry, dict) and geometry.get("type") == "Point" else None
    if not isinstance(point, Sequence) or len(point) not in {2, 3}:
        raise ValueError(f"feature {number} is no Point with [longitude, latitude, altitude]")
    return dict(zip(("longitude_deg", "latitude_deg", "altitude_m"), point, strict=False))


def _receiver(place: str, row: Mapping[str, Any]) -> Receiver:
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RecordingError(f"{place}: got name {name!r}; expected the receiver's name")
    latitude, longitude = _number(place, row, "latitude_deg"), _number(place, row, "longitude_deg")
    if (latitude is None) != (longitude is None):
        raise RecordingError(f"{place}: got one coordinate of {name}; expected both, or none if it moves")
    position = None
    altitude = _number(place, row, "altitude_m")
    if latitude is not None and longitude is not None:
        check_position(f"{place}, {name}", latitude, longitude)
        position = Position(latitude_deg=latitude, longitude_deg=longitude, altitude_m=altitude or 0.0)
    number = _number(place, row, "receiver_id")
    if number is not None and not (number.is_integer() and 0 <= number < RAW_RECEIVERS.maximum):
        raise RecordingError(
            f"{place}: got receiver id {number:g} of {name}; expected an integer, 0 to {RAW_RECEIVERS.maximum - 1}"
        )
    return Receiver(
        name=name.strip(),
        receiver_id=None if number is None else int(number),
        position=position,
        full_scale_dbm=_number(place, row, "full_scale_dbm"),
        states_altitude=altitude is not None,
    )


def _number(place: str, row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RecordingError(f"{place}: got {column} {value!r}; expected a finite number")
    return number
