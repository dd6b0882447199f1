"""A made event as files: a SigMF collection of its recordings, with `truth.json` beside it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sigmf.sigmffile import SigMFFile

from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position

START = "2026-01-01T12:00:00.000000000Z"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """One receiver's recording; `pairs` are I and Q as they are stored, (samples, 2)."""

    name: str
    position: Position
    pairs: NDArray[np.int16] = field(repr=False)

    @property
    def stem(self) -> str:
        """What the names of its two files share."""
        return f"synthetic_{self.name}"


def write(
    folder: Path,
    streams: Sequence[Stream],
    *,
    sample_rate_hz: float,
    center_frequency_hz: float,
    truth: Mapping[str, Any],
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write the event, and texts `beside` it by their files' names; the collection's path.

    Files of an earlier event are replaced. `ClientError` when the folder cannot be written.
    """
    collection = folder / "synthetic.sigmf-collection"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        listed = [_write_recording(folder, s, sample_rate_hz, center_frequency_hz) for s in streams]
        content = {"core:version": "1.2.0", "core:description": "synthetic event, made by rfserve"}
        collection.write_text(json.dumps({"collection": content | {"core:streams": listed}}, indent=2) + "\n")
        (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
        for name, text in (beside or {}).items():
            (folder / name).write_text(text)
    except OSError as error:
        raise ClientError(f"cannot write the event to {folder}: {error}") from error
    return collection


def _write_recording(folder: Path, stream: Stream, sample_rate_hz: float, center_frequency_hz: float) -> dict[str, str]:
    data = folder / f"{stream.stem}.sigmf-data"
    stream.pairs.astype("<i2").tofile(data)
    info = {
        "core:datatype": "ci16_le",
        "core:sample_rate": sample_rate_hz,
        "core:description": f"synthetic receiver {stream.name}, made by rfserve",
        "core:license": "https://www.apache.org/licenses/LICENSE-2.0",
    }
    place = stream.position
    point = {"type": "Point", "coordinates": [place.longitude_deg, place.latitude_deg, place.altitude_m]}
    file = SigMFFile(data_file=str(data), global_info=info)
    file.add_capture(
        0, metadata={"core:frequency": center_frequency_hz, "core:datetime": START, "core:geolocation": point}
    )
    meta = folder / f"{stream.stem}.sigmf-meta"
    # The library refuses to replace a file; a generator is run again.
    meta.unlink(missing_ok=True)
    file.tofile(str(meta))
    return {"name": stream.stem, "hash": hashlib.sha512(meta.read_bytes()).hexdigest()}
