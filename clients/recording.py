"""SigMF recordings and collections on disk; samples are read only where they are needed."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sigmf
from numpy.typing import NDArray
from sigmf.error import SigMFError
from sigmf.sigmffile import SigMFCollection, SigMFFile

from rfserve.clients.errors import RecordingError
from rfserve.clients.observation import Observation, check_position

META, DATA, COLLECTION = ".sigmf-meta", ".sigmf-data", ".sigmf-collection"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:Z|\+00:00)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One receiver's SigMF recording: its first capture, and where its samples are.

    `clock_locked` is False when the receiver says so (`kiwi:gnss_valid`). `start_ns` is the UTC time of sample 0 in ns
    since 1970, None when the file does not say.
    """

    name: str
    file: SigMFFile
    samples: int
    sample_rate_hz: float
    center_frequency_hz: float
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    start_ns: int | None
    clock_locked: bool

    def __post_init__(self) -> None:
        check_position(self.name, self.latitude_deg, self.longitude_deg)
        if not self.sample_rate_hz > 0:
            raise RecordingError(f"{self.name}: got sample rate {self.sample_rate_hz} Hz; expected above 0")

    def observe(self, first: int, count: int) -> Observation:
        """Samples `first` to `first + count` as an observation, 1.0 = full scale."""
        try:
            iq: NDArray[np.complex64] = np.asarray(self.file.read_samples(first, count), np.complex64)
        except (SigMFError, OSError, ValueError) as error:
            raise RecordingError(f"{self.name}: cannot read samples {first} to {first + count}: {error}") from error
        start = None if self.start_ns is None else self.start_ns + round(first / self.sample_rate_hz * 1e9)
        return Observation(
            iq=iq.reshape(-1),
            sample_rate_hz=self.sample_rate_hz,
            center_frequency_hz=self.center_frequency_hz,
            latitude_deg=self.latitude_deg,
            longitude_deg=self.longitude_deg,
            altitude_m=self.altitude_m,
            start_ns=start,
            name=self.name,
            clock_locked=self.clock_locked,
        )


def read_event(paths: Sequence[Path]) -> list[Recording]:
    """The recordings that the paths name: a collection stands for all of its streams, in its order.

    Checksums are verified. `RecordingError` (or `PositionInvalid`) says which file is wrong, and how.
    """
    if not paths:
        raise RecordingError("no recording was given; expected a .sigmf-collection, or .sigmf-meta files")
    found: list[Recording] = []
    for path in paths:
        found += _read_collection(path) if path.suffix == COLLECTION else [_read(path)]
    names = [r.name for r in found]
    if len(set(names)) != len(names):
        raise RecordingError(f"got the same recording twice: {', '.join(names)}; give each receiver once")
    return found


def _read_collection(path: Path) -> list[Recording]:
    try:
        content = json.loads(path.read_text())
        names = [str(s["name"]) for s in content["collection"]["core:streams"]]
        # Verifies the SHA-512 of every stream's metadata.
        SigMFCollection(metadata=content, base_path=path.parent)
    except (OSError, json.JSONDecodeError, KeyError, TypeError, SigMFError) as error:
        raise RecordingError(f"{path.name} is not a usable SigMF collection: {error}; see its streams") from error
    if not names:
        raise RecordingError(f"{path.name} lists no streams; expected one for each receiver")
    return [_read(path.parent / f"{name}{META}") for name in names]


def _read(path: Path) -> Recording:
    if path.suffix not in {META, DATA, ""}:
        raise RecordingError(f"{path.name}: expected {META}, {DATA} or {COLLECTION}; convert it to SigMF first")
    meta = path.with_suffix(META) if path.suffix else path.with_name(path.name + META)
    data = meta.with_suffix(DATA)
    for needed in (meta, data):
        if not needed.is_file():
            raise RecordingError(f"no {needed.name} in {needed.parent}; a SigMF recording is a pair of files")
    try:
        file = sigmf.fromfile(str(meta))
        info, captures = file.get_global_info(), file.get_captures()
        samples = int(file.sample_count)
    except (SigMFError, OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{meta.name}: {error}; is it whole, and the data unchanged?") from error
    if not captures:
        raise RecordingError(f"{meta.name} has no capture; expected one with frequency and time")
    capture = captures[0]
    if not str(info.get("core:datatype", "")).startswith("c"):
        raise RecordingError(f"{meta.stem}: got {info.get('core:datatype')} samples; expected complex ones (IQ)")
    longitude, latitude, altitude = _coordinates(meta.stem, capture, info)
    if "core:sample_rate" not in info or "core:frequency" not in capture:
        raise RecordingError(f"{meta.stem}: core:sample_rate or core:frequency is missing; add both")
    return Recording(
        name=str(info.get("kiwi:receiver_id") or meta.stem),
        file=file,
        samples=samples,
        sample_rate_hz=float(info["core:sample_rate"]),
        center_frequency_hz=float(capture["core:frequency"]),
        latitude_deg=latitude,
        longitude_deg=longitude,
        altitude_m=altitude,
        start_ns=_nanoseconds(meta.stem, capture.get("core:datetime")),
        clock_locked=bool(capture.get("kiwi:gnss_valid", True)),
    )


def _coordinates(name: str, capture: dict[str, Any], info: dict[str, Any]) -> tuple[float, float, float]:
    """Longitude, latitude, altitude of the GeoJSON point; altitude 0 when it is not given."""
    place = capture.get("core:geolocation") or info.get("core:geolocation")
    if not place:
        raise RecordingError(
            f"{name}: no core:geolocation; add the receiver's position [longitude, latitude, altitude]"
        )
    values = place.get("coordinates", [])
    if not 2 <= len(values) <= 3:
        raise RecordingError(f"{name}: got coordinates {values}; expected [longitude, latitude, altitude]")
    longitude, latitude, altitude = (float(v) for v in [*values, 0.0][:3])
    return longitude, latitude, altitude


def _nanoseconds(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise RecordingError(f"{name}: got core:datetime {text!r}; expected UTC as 2020-08-13T06:52:21.000035812Z")
    # datetime holds microseconds only; a nanosecond is 30 cm of travel.
    whole = int(datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp())
    return whole * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
