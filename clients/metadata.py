"""The fields of SigMF metadata that a fix needs, each checked as it is read."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rfserve.clients.errors import RecordingError

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:Z|\+00:00)")
NANOSECONDS_PER_SECOND = 1_000_000_000
HUGE = 1e300


def number(name: str, fields: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number; `RecordingError` when it is missing without a `default`, or is none."""
    value = fields.get(key, default)
    if value is None:
        raise RecordingError(f"{name}: {key} is missing; add it")
    # NaN is not; an integer may be too long for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= HUGE:
        raise RecordingError(f"{name}: got {key} {value!r}; expected a finite number")
    return float(value)


def count(name: str, fields: Mapping[str, Any], key: str) -> int:
    """An integer from 0, which is also what a missing one means; `RecordingError` for anything else."""
    value = fields.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RecordingError(f"{name}: got {key} {value!r}; expected an integer from 0")
    return value


def coordinates(name: str, capture: Mapping[str, Any], info: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Longitude and latitude in degrees and altitude in metres of the capture's GeoJSON point, else of the file's.

    None when there is neither. The altitude is 0 when it is not given. Ranges are checked where the position is used
    (`check_position`).
    """
    place = capture.get("core:geolocation") or info.get("core:geolocation")
    if place is None:
        return None
    values = place.get("coordinates") if isinstance(place, dict) else None
    if not isinstance(values, list) or len(values) not in {2, 3}:
        raise RecordingError(
            f"{name}: got core:geolocation {place!r}; expected a GeoJSON Point with [longitude, latitude, altitude]"
        )
    parts = dict(zip(("longitude", "latitude", "altitude"), values, strict=False))
    return number(name, parts, "longitude"), number(name, parts, "latitude"), number(name, parts, "altitude", 0.0)


def nanoseconds(name: str, capture: Mapping[str, Any]) -> int | None:
    """`core:datetime` as UTC in ns since 1970; None when the capture has none."""
    text = capture.get("core:datetime")
    return None if text is None else utc_ns(name, "core:datetime", text)


def utc_ns(name: str, key: str, text: object) -> int:
    """A UTC time in the form of RFC 3339 as ns since 1970; `RecordingError` when it is none."""
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        # datetime holds microseconds only; a nanosecond is 30 cm of travel.
        whole = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else None
    except ValueError:
        whole = None
    if match is None or whole is None:
        raise RecordingError(f"{name}: got {key} {text!r}; expected UTC as 2020-08-13T06:52:21.000035812Z")
    return int(whole.timestamp()) * NANOSECONDS_PER_SECOND + int((match[2] or "0").ljust(9, "0"))
