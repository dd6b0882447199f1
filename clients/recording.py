"""SigMF recordings and collections on disk; samples are read only where they are needed."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sigmf.sigmffile import dtype_info, get_sigmf_filenames

from rfserve.clients import metadata
from rfserve.clients.errors import ClientError, RecordingError
from rfserve.clients.observation import Observation, check_position

META, DATA, COLLECTION = ".sigmf-meta", ".sigmf-data", ".sigmf-collection"
DATATYPE = re.compile(r"c(f64|f32|i32|i16|u32|u16)_(le|be)|c(i8|u8)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One receiver's SigMF recording: its first capture, and where its samples are.

    `samples` counts those of the first capture: a later one has its own time and frequency. `clock_locked` is False
    when the receiver says so (`kiwi:gnss_valid`). `start_ns` is the UTC time of sample 0 in ns since 1970, None when
    the file does not say.
    """

    name: str
    data: Path
    datatype: str
    first_byte: int
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
        """Samples `first` to `first + count` as an observation, 1.0 = full scale; only they are read from disk."""
        if first < 0 or count < 1 or first + count > self.samples:
            raise RecordingError(
                f"{self.name}: got samples {first} to {first + count}; expected some within its {self.samples}"
            )
        start = None if self.start_ns is None else self.start_ns + round(first / self.sample_rate_hz * 1e9)
        return Observation(
            iq=self._read(first, count),
            sample_rate_hz=self.sample_rate_hz,
            center_frequency_hz=self.center_frequency_hz,
            latitude_deg=self.latitude_deg,
            longitude_deg=self.longitude_deg,
            altitude_m=self.altitude_m,
            start_ns=start,
            name=self.name,
            clock_locked=self.clock_locked,
        )

    def _read(self, first: int, count: int) -> NDArray[np.complex64]:
        layout = dtype_info(self.datatype)
        offset = self.first_byte + first * layout["sample_size"]
        try:
            stored: NDArray[Any] = np.memmap(
                self.data, layout["component_dtype"], mode="r", offset=offset, shape=(count, 2)
            )
        except (OSError, ValueError) as error:
            raise RecordingError(f"{self.name}: cannot read {self.data.name}: {error}; is it whole?") from error
        parts = stored.astype(np.float32)
        if layout["is_fixedpoint"]:
            full_scale = np.float32(2 ** (8 * layout["component_size"] - 1))
            # As sigmf does: the middle of an unsigned type is half its range.
            parts = (parts - full_scale if layout["is_unsigned"] else parts) / full_scale
        return parts.view(np.complex64).reshape(count)


def read_event(
    paths: Sequence[Path], *, verify_data: bool = True, drop: Callable[[int, str, ClientError], None] | None = None
) -> list[Recording]:
    """The recordings that the paths name: a collection stands for all of its streams, in its order.

    A recording is named by either of its two files, or by what their names share. Checksums are verified; that reads
    every sample once, which `verify_data=False` leaves out. `RecordingError` (or `PositionInvalid`) says which file is
    wrong, and how; `drop` (of an `event.Screen`) gets the place, name and error of each instead, and the rest is read.
    """
    if not paths:
        raise RecordingError(f"no recording was given; expected a {COLLECTION}, or {META} files")
    found: list[Recording] = []
    streams = [s for p in paths for s in (_streams(p) if p.suffix == COLLECTION else [_Stream(meta=p)])]
    for place, stream in enumerate(streams):
        try:
            stream.check()
            found.append(_read_recording(stream.meta, verify_data=verify_data))
        except ClientError as error:
            if drop is None:
                raise
            drop(place, stream.meta.stem, error)
    if drop is not None:
        return found
    names = [r.name for r in found]
    if len(set(names)) != len(names):
        raise RecordingError(f"got the same receiver twice: {', '.join(names)}; give each receiver once")
    return found


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """A metadata file and, in a collection, its name and its hash when the collection was written."""

    meta: Path
    collection: str = ""
    hash: object = None

    def check(self) -> None:
        if not self.collection:
            return
        if not self.meta.is_file():
            raise RecordingError(
                f"{self.collection} lists {self.meta.name.removesuffix(META)}, but there is no {self.meta.name} beside "
                "it; add it"
            )
        _require_hash(self.meta, self.hash)


def _streams(path: Path) -> list[_Stream]:
    """What a collection lists."""
    listed = _json(path).get("collection")
    streams = listed.get("core:streams") if isinstance(listed, dict) else None
    if not isinstance(streams, list) or not streams:
        raise RecordingError(f"{path.name} lists no streams; expected one in core:streams for each receiver")
    found = []
    for stream in streams:
        name = stream.get("name") if isinstance(stream, dict) else None
        # A stream lies beside its collection: a name that leads elsewhere is none.
        if not isinstance(name, str) or not name or Path(name).name != name:
            raise RecordingError(f"{path.name}: got stream {stream!r}; expected the name of a recording beside it")
        meta = path.with_name(name + META)
        found.append(_Stream(meta=meta, collection=path.name, hash=stream.get("hash")))
    return found


def _read_recording(path: Path, *, verify_data: bool) -> Recording:
    names = get_sigmf_filenames(path)
    meta, data = names["meta_fn"], names["data_fn"]
    if path.is_file() and path not in {meta, data}:
        raise RecordingError(
            f"{path.name}: got a file that is not SigMF; expected {META}, {DATA} or {COLLECTION}: convert it (WAV "
            "and raw .cu8 files do not say where the receiver stood)"
        )
    for needed in (meta, data):
        if not needed.is_file():
            raise RecordingError(f"no {needed.name} in {needed.parent}; a SigMF recording is a pair of files")
    content = _json(meta)
    info, captures = content.get("global"), content.get("captures")
    if not isinstance(info, dict) or not isinstance(captures, list) or not captures:
        raise RecordingError(f"{meta.name} has no global or no capture; expected one with frequency and time")
    name = str(info.get("kiwi:receiver_id") or names["base_fn"].name)
    if not all(isinstance(capture, dict) for capture in captures):
        raise RecordingError(f"{name}: got captures {captures!r}; expected JSON objects")
    first_byte, samples = _extent(name, data, content)
    if verify_data and info.get("core:sha512") is not None:
        _require_hash(data, info["core:sha512"])
    capture = captures[0]
    longitude, latitude, altitude = metadata.coordinates(name, capture, info)
    return Recording(
        name=name,
        data=data,
        datatype=info["core:datatype"],
        first_byte=first_byte,
        samples=samples,
        sample_rate_hz=metadata.number(name, info, "core:sample_rate"),
        center_frequency_hz=metadata.number(name, capture, "core:frequency"),
        latitude_deg=latitude,
        longitude_deg=longitude,
        altitude_m=altitude,
        start_ns=metadata.nanoseconds(name, capture),
        clock_locked=bool(capture.get("kiwi:gnss_valid", info.get("kiwi:gnss_valid", True))),
    )


def _extent(name: str, data: Path, content: Mapping[str, Any]) -> tuple[int, int]:
    """The first byte and the number of samples of the first capture."""
    info, captures = content["global"], content["captures"]
    datatype = info.get("core:datatype")
    if not isinstance(datatype, str) or not DATATYPE.fullmatch(datatype):
        raise RecordingError(
            f"{name}: got core:datatype {datatype!r}; expected complex samples (IQ), as ci16_le, cu8 or cf32_le"
        )
    if info.get("core:num_channels", 1) != 1:
        raise RecordingError(
            f"{name}: got {info['core:num_channels']} channels; expected one: write a recording for each"
        )
    if info.get("core:trailing_bytes") or any(capture.get("core:header_bytes") for capture in captures):
        raise RecordingError(f"{name}: got samples between other bytes; expected a conforming SigMF data file")
    bytes_per_sample = int(dtype_info(datatype)["sample_size"])
    held, rest = divmod(data.stat().st_size, bytes_per_sample)
    skipped = metadata.count(name, info, "core:offset")
    starts = [metadata.count(name, capture, "core:sample_start") - skipped for capture in captures]
    annotations = [a for a in content.get("annotations") or [] if isinstance(a, dict)]
    needed = max(
        [
            metadata.count(name, a, "core:sample_start") - skipped + metadata.count(name, a, "core:sample_count")
            for a in annotations
        ]
        + [start + 1 for start in starts]
    )
    if rest or held < needed:
        raise RecordingError(
            f"{name}: {data.name} has {held} samples and {rest} bytes; expected whole samples, at least {needed} by "
            "its metadata: it was cut short, fetch it again"
        )
    ends = [*starts[1:], held]
    if starts[0] < 0 or ends[0] <= starts[0]:
        raise RecordingError(f"{name}: captures start at samples {starts}; expected them from 0, in order")
    return starts[0] * bytes_per_sample, ends[0] - starts[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordingError(f"cannot read {path.name}: {error}; expected a SigMF file (JSON)") from error
    if not isinstance(content, dict):
        raise RecordingError(f"{path.name}: got a JSON {type(content).__name__}; expected an object")
    return content


def _require_hash(path: Path, expected: object) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha512").hexdigest()
    if found != expected:
        raise RecordingError(
            f"{path.name}: its SHA-512 is {found[:12]}…, recorded was {str(expected)[:12]}…; the file was changed or "
            "cut short: fetch it again, or write the collection anew"
        )
