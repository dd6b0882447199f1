"""What a raw file cannot say itself: a small JSON or TOML file beside it, with our own names.

`NAME.cu8` is described by `NAME.json`, `NAME.toml`, `NAME.cu8.json` or `NAME.cu8.toml`:

    {"receiver": "roof", "sample_rate_hz": 2000000, "center_frequency_hz": 1090000000,
     "latitude_deg": 45.07, "longitude_deg": 7.69, "altitude_m": 240,
     "start_time": "2026-01-01T12:00:00.000000000Z"}

Only the sample rate and the centre frequency are needed, and the position unless a receivers file gives it.
`start_time` is the UTC time of the first sample; `clock_locked: false` says that it is not good to a sample.
`full_scale_dbm` is the power of a full-scale tone at the antenna, `receiver_id` the receiver's calibration, 0 to 9,
and `datatype` (`cu8`, `ci16_le`, `cf32_le`, as SigMF writes them) what the file's own name does not tell. Other fields
are notes.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rfserve.clients import metadata
from rfserve.clients.errors import RecordingError
from rfserve.clients.formats.reading import Position
from rfserve.clients.stored_samples import Bytes, is_file

FIELDS = (
    "receiver",
    "sample_rate_hz",
    "center_frequency_hz",
    "latitude_deg",
    "longitude_deg",
    "altitude_m",
    "start_time",
    "clock_locked",
    "full_scale_dbm",
    "receiver_id",
    "datatype",
)
# A date of TOML's own that a date of Python's cannot hold.
FINER_DATE = re.compile(r"^\s*start_time\s*=\s*(\d{4}-\d\d-\d\d[Tt ][\d:]+\.\d{6}\d*[1-9]\S*)", re.MULTILINE)
EXAMPLE = (
    '{"receiver": "roof", "sample_rate_hz": 2000000, "center_frequency_hz": 433920000, "latitude_deg": 45.07, '
    '"longitude_deg": 7.69, "altitude_m": 240, "start_time": "2026-01-01T12:00:00.000000000Z"}'
)
PLACE_EXAMPLE = '{"receiver": "roof", "latitude_deg": 45.07, "longitude_deg": 7.69, "altitude_m": 240}'
MOST_BYTES = 1 << 20


class SideFile:
    """The fields beside a recording, each checked as it is asked for; `given` fills in what the file does not say."""

    def __init__(self, recording: Path, given: Mapping[str, Any], *, example: str = EXAMPLE) -> None:
        self.path = _path(recording)
        self._expected = self.path or recording.with_suffix(".json")
        said = {} if self.path is None else _content(self.path)
        self._fields = {**given, **{k: v for k, v in said.items() if v is not None}}
        self._example = example
        self.states_time = said.get("start_time") is not None

    @property
    def remedy(self) -> str:
        """What to do when a field is missing."""
        if self.path is None:
            return f"write {self._expected.name} beside it, as {self._example}"
        return f"add it to {self.path.name}, as {self._example}"

    def name(self, otherwise: str) -> str:
        """The receiver's name."""
        return self.text("receiver") or otherwise

    def text(self, field: str) -> str | None:
        """A text, None when it is not given."""
        value = self._fields.get(field)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise RecordingError(f"{self._expected.name}: got {field} {value!r}; expected a text")
        return value

    def number(self, field: str) -> float:
        """A finite number that has to be given."""
        if self._fields.get(field) is None:
            raise RecordingError(f"{self._expected.name}: {field} is missing; {self.remedy}")
        return metadata.number(self._expected.name, self._fields, field)

    def optional_number(self, field: str) -> float | None:
        """A finite number, None when it is not given."""
        return None if self._fields.get(field) is None else self.number(field)

    def receiver_id(self) -> int | None:
        """The receiver's id, None when it is not given."""
        if self._fields.get("receiver_id") is None:
            return None
        return metadata.count(self._expected.name, self._fields, "receiver_id")

    def flag(self, field: str, otherwise: bool) -> bool:
        """True or false."""
        value = self._fields.get(field, otherwise)
        if not isinstance(value, bool):
            raise RecordingError(f"{self._expected.name}: got {field} {value!r}; expected true or false")
        return value

    def position(self) -> Position | None:
        """Where the receiver stood, None when neither coordinate is given."""
        if self._fields.get("latitude_deg") is None and self._fields.get("longitude_deg") is None:
            return None
        return Position(
            latitude_deg=self.number("latitude_deg"),
            longitude_deg=self.number("longitude_deg"),
            altitude_m=self.optional_number("altitude_m") or 0.0,
        )

    def start_ns(self) -> int | None:
        """The UTC time of the first sample in ns since 1970, None when it is not given."""
        value = self._fields.get("start_time")
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise RecordingError(f"{self._expected.name}: got start_time {value} without a zone; end it with Z")
            try:
                value = value.astimezone(UTC).isoformat()
            except OverflowError as error:
                raise RecordingError(
                    f"{self._expected.name}: got start_time {value}; expected a time of now"
                ) from error
        return None if value is None else metadata.utc_ns(self._expected.name, "start_time", value)


def _path(recording: Path) -> Path | None:
    names = [recording.with_suffix(s) for s in (".json", ".toml")]
    names += [recording.with_name(recording.name + s) for s in (".json", ".toml")]
    found = [p for p in dict.fromkeys(names) if is_file(p)]
    if len(found) > 1:
        raise RecordingError(f"{recording.name} has {' and '.join(p.name for p in found)}; expected one side file")
    return found[0] if found else None


def _toml(text: str) -> dict[str, Any]:
    # Python's dates end at microseconds, and tomllib cuts what is beyond them off: 300 m of a signal's way.
    finer = FINER_DATE.search(text)
    if finer is not None:
        raise ValueError(f'{finer[1]} has more than microseconds, which TOML keeps in a text only: write "{finer[1]}"')
    return tomllib.loads(text)


def _content(path: Path) -> dict[str, Any]:
    whole = Bytes.whole(path)
    if whole.size > MOST_BYTES:
        raise RecordingError(f"{path.name} has {whole.size} bytes; expected a side file, as {EXAMPLE}")
    try:
        text = whole.pieces([(0, whole.size)]).decode("utf-8")
        content = _toml(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"cannot read {path.name}: {error}; expected a side file, as {EXAMPLE}") from error
    if not isinstance(content, dict):
        raise RecordingError(f"{path.name}: got {type(content).__name__}; expected a side file, as {EXAMPLE}")
    for field in content:
        alike = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0.75)
        if alike and alike[0] != field:
            raise RecordingError(f"{path.name}: got {field}; did you mean {alike[0]}?")
    return content
