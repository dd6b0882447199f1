"""The chunks of a WAV file: RIFF, and RF64 or BW64 for files above 4 GiB."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rfserve.clients.errors import RecordingError

# A KiwiSDR writes 47 chunks a second: a day of them.
MOST_CHUNKS = 4_100_000
MOST_FIELD_BYTES = 1 << 16
IN_DS64 = 0xFFFFFFFF
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the `fmt ` chunk says: samples of `bits` bits, integers or floats, of two channels taken as I and Q."""

    sample_rate_hz: int
    bits: int
    is_float: bool

    @property
    def datatype(self) -> str:
        """The same in SigMF's words; 8-bit WAV is unsigned."""
        if self.bits == 8:
            return "cu8"
        return f"c{'f' if self.is_float else 'i'}{self.bits}_le"


@dataclass(frozen=True, kw_only=True)
class Wav:
    """The form, where each `data` chunk lies, as (first byte, bytes), and the short chunks beside them.

    `notes` holds (name, content, number of data chunks before it) in the order of the file.
    """

    form: Form
    data: list[tuple[int, int]]
    notes: list[tuple[bytes, bytes, int]]


def is_riff(path: Path) -> bool:
    """Whether the file begins as a WAV does."""
    try:
        with path.open("rb") as file:
            magic = file.read(12)
    except OSError:
        return False
    return magic[:4] in {b"RIFF", b"RF64", b"BW64"} and magic[8:] == b"WAVE"


def parse(path: Path) -> Wav:
    """The chunks of the file; only their headers and the short ones are read. `RecordingError` when it is broken."""
    try:
        with path.open("rb") as file:
            return _parse(path.name, file, path.stat().st_size)
    except (OSError, struct.error) as error:
        raise RecordingError(f"cannot read {path.name}: {error}; is it a whole WAV file?") from error


def _parse(name: str, file: IO[bytes], size: int) -> Wav:
    magic, _, kind = struct.unpack("<4sI4s", file.read(12))
    if magic not in {b"RIFF", b"RF64", b"BW64"} or kind != b"WAVE":
        raise RecordingError(f"{name}: got {magic + kind!r}; expected a WAV file (RIFF…WAVE)")
    form, long_bytes = None, None
    data, notes = [], []
    at, count = 12, 0
    while at + 8 <= size:
        count += 1
        if count > MOST_CHUNKS:
            raise RecordingError(f"{name} has more than {MOST_CHUNKS} chunks; expected a WAV file of a recorder")
        file.seek(at)
        chunk, length = struct.unpack("<4sI", file.read(8))
        if chunk == b"data" and length == IN_DS64 and long_bytes is not None:
            length = long_bytes
        at += 8
        if length > size - at:
            raise RecordingError(
                f"{name}: its chunk {chunk!r} has {length} bytes, the file {size - at} from there on; it was cut short "
                "or is still being written: fetch it again, or mend its header"
            )
        if chunk == b"data":
            data.append((at, length))
        elif length <= MOST_FIELD_BYTES:
            content = file.read(length)
            if chunk == b"fmt " and form is None:
                form = _form(name, content)
            elif chunk == b"ds64":
                long_bytes = struct.unpack_from("<QQ", content)[1]
            else:
                notes.append((chunk, content, len(data)))
        at += length + length % 2
    if form is None or not any(length for _, length in data):
        raise RecordingError(
            f"{name} has {'no form' if form is None else 'no samples'}; expected fmt and data chunks: was the recorder "
            "stopped before it wrote its header?"
        )
    return Wav(form=form, data=data, notes=notes)


def _form(name: str, content: bytes) -> Form:
    code, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", content)
    if code == EXTENSIBLE:
        (code,) = struct.unpack_from("<H", content, 24)
    if channels != 2:
        raise RecordingError(f"{name}: got {channels} channels; expected two, I and Q: record in IQ mode")
    known = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}
    if bits not in known.get(code, ()) or align != bits // 4:
        raise RecordingError(
            f"{name}: got WAV format {code} with {bits} bits in frames of {align} bytes; expected PCM of 8, 16, 24 or "
            "32 bits, or floats of 32 or 64: convert it"
        )
    if not rate:
        raise RecordingError(f"{name}: got a sample rate of 0 Hz; expected above 0")
    return Form(sample_rate_hz=rate, bits=bits, is_float=code == FLOAT)
