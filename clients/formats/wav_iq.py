"""IQ in WAV files: I left, Q right, as SDR#, HDSDR, SDRuno, SDR Console and KiwiSDR write them."""

import re
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats import file_name, gnss_stamps, riff
from rfserve.clients.formats.reading import Reading
from rfserve.clients.formats.side_file import PLACE_EXAMPLE, SideFile
from rfserve.clients.formats.sigmf_pair import RECEIVERS_REMEDY
from rfserve.clients.stored_samples import Bytes, StoredSamples, encoding_of

SUFFIXES = (".wav", ".rf64")


def read(path: Path, *, verify_data: bool) -> list[Reading]:  # noqa: ARG001 there is no checksum
    """The one recording of the file: what its side file says, else its chunks, else its name.

    The time of a file name, or of a computer's clock, is not good to a sample: `clock_locked` is False then.
    """
    wav = riff.parse(path)
    encoding = encoding_of(wav.form.datatype)
    blocks = np.array(wav.data, np.int64)
    if (blocks[:, 1] % encoding.bytes_per_sample).any():
        raise RecordingError(f"{path.name}: a data chunk ends within a sample; it was cut short, fetch it again")
    blocks[:, 1] //= encoding.bytes_per_sample
    told = {"sample_rate_hz": float(wav.form.sample_rate_hz)} | file_name.fields(path.stem) | _auxi(wav)
    side = SideFile(path, told, example=PLACE_EXAMPLE)
    stored = StoredSamples(content=Bytes.whole(path), encoding=encoding, blocks=blocks)
    start_ns, locked, rate_hz = side.start_ns(), side.states_time, side.number("sample_rate_hz")
    clock = gnss_stamps.clock(path.name, wav, blocks[:, 1], near_ns=start_ns)
    if clock is not None:
        kept = slice(clock.first_block, clock.first_block + clock.blocks)
        stored = StoredSamples(content=stored.content, encoding=encoding, blocks=blocks[kept])
        start_ns, rate_hz, locked = clock.start_ns, clock.sample_rate_hz, True
    name = side.name(path.stem)
    return [
        Reading(
            name=name,
            stored=stored,
            sample_rate_hz=rate_hz,
            center_frequency_hz=side.number("center_frequency_hz"),
            position=side.position(),
            without_position=f"a WAV file does not say where the receiver stood; {side.remedy}{RECEIVERS_REMEDY}",
            start_ns=start_ns,
            clock_locked=side.flag("clock_locked", locked),
            receiver_id=side.receiver_id(),
            full_scale_dbm=side.optional_number("full_scale_dbm"),
        )
    ]


def _auxi(wav: riff.Wav) -> dict[str, Any]:
    """Centre frequency and time of the `auxi` chunk: SpectraVue's structure, or the XML of SDR Console."""
    content = next((c for chunk, c, _ in wav.notes if chunk == b"auxi"), b"")
    if content[:1] == b"<" or content[2:3] == b"<":
        return _auxi_xml(content)
    if len(content) < 36:
        return {}
    year, month, _, day, hour, minute, second, millisecond = struct.unpack_from("<8H", content)
    (frequency_hz,) = struct.unpack_from("<I", content, 32)
    found: dict[str, Any] = {"center_frequency_hz": float(frequency_hz)} if frequency_hz else {}
    try:
        begun = datetime(year, month, day, hour, minute, second, 1000 * millisecond, tzinfo=UTC)
    except ValueError:
        return found
    return found | {"start_time": begun.isoformat()}


def _auxi_xml(content: bytes) -> dict[str, Any]:
    text = content.decode("utf-16" if b"\0" in content[:4] else "utf-8", errors="replace")
    found: dict[str, Any] = {}
    if frequency := re.search(r'RadioCenterFreq="(\d{1,15})"', text):
        found["center_frequency_hz"] = float(frequency[1])
    if seconds := re.search(r'UTCSeconds="(\d{1,10})"', text):
        found["start_time"] = datetime.fromtimestamp(int(seconds[1]), UTC).isoformat()
    return found
