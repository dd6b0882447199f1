"""SigMF metadata and its data, wherever both lie: the first capture of a recording, and those that go on from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigmf.sigmffile import get_sigmf_filenames

from rfserve.clients import metadata
from rfserve.clients.errors import RecordingError
from rfserve.clients.formats.reading import Position, Reading
from rfserve.clients.stored_samples import DATATYPE, Bytes, StoredSamples, encoding_of, is_file

META, DATA, COLLECTION = ".sigmf-meta", ".sigmf-data", ".sigmf-collection"
MOST_METADATA_BYTES = 64 << 20
NO_PLACE = "no core:geolocation; add the receiver's position as a GeoJSON Point, [longitude, latitude, altitude]"
RECEIVERS_REMEDY = ", or name it in a receivers file (--receivers)"


def read(path: Path, *, verify_data: bool) -> list[Reading]:
    """The recording that either file of the pair names, or what their names share."""
    names = get_sigmf_filenames(path)
    meta, data = names["meta_fn"], names["data_fn"]
    for needed in (meta, data):
        if not is_file(needed):
            raise RecordingError(f"no {needed.name} in {needed.parent}; a SigMF recording is a pair of files")
    content = parse(Bytes.whole(meta), meta.name)
    return [
        reading(names["base_fn"].name, content, Bytes.whole(data), meta=meta.name, data=data.name, verify=verify_data)
    ]


def reading(stem: str, content: Mapping[str, Any], samples: Bytes, *, meta: str, data: str, verify: bool) -> Reading:
    """What the metadata says; `meta` and `data` are how messages name the two."""
    info, captures = content.get("global"), content.get("captures")
    if not isinstance(info, dict) or not isinstance(captures, list) or not captures:
        raise RecordingError(f"{meta} has no global or no capture; expected one with frequency and time")
    name = str(info.get("kiwi:receiver_id") or stem)
    if not all(isinstance(capture, dict) for capture in captures):
        raise RecordingError(f"{name}: got captures {captures!r}; expected JSON objects")
    stored = _first_capture(name, samples, data, content)
    if verify and info.get("core:sha512") is not None:
        require_hash(samples, data, info["core:sha512"])
    capture = captures[0]
    place = metadata.coordinates(name, capture, info)
    return Reading(
        name=name,
        stored=stored,
        sample_rate_hz=metadata.number(name, info, "core:sample_rate"),
        center_frequency_hz=metadata.number(name, capture, "core:frequency"),
        position=place and Position(latitude_deg=place[1], longitude_deg=place[0], altitude_m=place[2]),
        without_position=NO_PLACE + RECEIVERS_REMEDY,
        start_ns=metadata.nanoseconds(name, capture),
        clock_locked=bool(capture.get("kiwi:gnss_valid", info.get("kiwi:gnss_valid", True))),
    )


def parse(content: Bytes, name: str) -> dict[str, Any]:
    """A JSON object; `RecordingError` when it is none."""
    if content.size > MOST_METADATA_BYTES:
        raise RecordingError(
            f"{name} has {content.size} bytes; expected a SigMF file (JSON) of {MOST_METADATA_BYTES} at most"
        )
    try:
        found = json.loads(content.pieces([(0, content.size)]).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"cannot read {name}: {error}; expected a SigMF file (JSON)") from error
    if not isinstance(found, dict):
        raise RecordingError(f"{name}: got a JSON {type(found).__name__}; expected an object")
    return found


def require_hash(content: Bytes, name: str, expected: object) -> None:
    """`RecordingError` unless the SHA-512 is this."""
    found = content.sha512()
    if found != str(expected).lower():
        raise RecordingError(
            f"{name}: its SHA-512 is {found[:12]}…, recorded was {str(expected)[:12]}…; the file was changed or "
            "cut short: fetch it again, or write the collection anew"
        )


def _first_capture(name: str, samples: Bytes, data: str, content: Mapping[str, Any]) -> StoredSamples:
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
    encoding = encoding_of(datatype)
    held, rest = divmod(samples.size, encoding.bytes_per_sample)
    skipped = metadata.count(name, info, "core:offset")
    starts = [metadata.count(name, capture, "core:sample_start") - skipped for capture in captures]
    annotations = content.get("annotations") or []
    if not isinstance(annotations, list):
        raise RecordingError(f"{name}: got annotations {annotations!r}; expected a list of JSON objects")
    needed = max(
        [
            metadata.count(name, a, "core:sample_start") - skipped + metadata.count(name, a, "core:sample_count")
            for a in annotations
            if isinstance(a, dict)
        ]
        # Recorders may begin another capture where they stop.
        + [starts[0] + 1, *starts[1:]]
    )
    if rest or held < needed:
        raise RecordingError(
            f"{name}: {data} has {held} samples and {rest} bytes; expected whole samples, at least {needed} by "
            "its metadata: it was cut short, fetch it again"
        )
    others = zip(starts[1:], captures[1:], strict=True)
    end = next((s for s, c in others if not _goes_on(name, info, captures[0], c, s - starts[0])), held)
    if starts[0] < 0 or end <= starts[0] or starts != sorted(starts):
        raise RecordingError(f"{name}: captures start at samples {starts}; expected them from 0, in order")
    return StoredSamples.in_one_piece(samples, encoding, starts[0] * encoding.bytes_per_sample, end - starts[0])


def _goes_on(
    name: str, info: Mapping[str, Any], first: Mapping[str, Any], other: Mapping[str, Any], after: int
) -> bool:
    """Whether the capture `after` so many samples says what the first one does, at its time to half a sample."""
    for key in ("core:frequency", "core:geolocation", "kiwi:gnss_valid"):
        if other.get(key, info.get(key)) != first.get(key, info.get(key)):
            return False
    begun, then = metadata.nanoseconds(name, first), metadata.nanoseconds(name, other)
    if begun is None or then is None:
        return False
    return abs((then - begun) * metadata.number(name, info, "core:sample_rate") / 1e9 - after) <= 0.5
