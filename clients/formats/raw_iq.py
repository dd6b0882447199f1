"""Raw interleaved I and Q without a header (rtl_sdr, HackRF, GNU Radio, gqrx), described by a side file."""

from pathlib import Path

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats import file_name
from rfserve.clients.formats.reading import Reading
from rfserve.clients.formats.side_file import SideFile
from rfserve.clients.formats.sigmf_pair import RECEIVERS_REMEDY
from rfserve.clients.stored_samples import DATATYPE, RTL_SDR, Bytes, StoredSamples, encoding_of

DATATYPES = {
    ".cu8": "cu8",
    ".cs8": "ci8",
    ".ci8": "ci8",
    ".cs16": "ci16_le",
    ".sc16": "ci16_le",
    ".ci16": "ci16_le",
    ".cu16": "cu16_le",
    ".cf32": "cf32_le",
    ".fc32": "cf32_le",
    ".cfile": "cf32_le",
    ".cf64": "cf64_le",
}
# Names that say nothing: the side file's datatype does.
UNTOLD = (".bin", ".dat", ".raw", ".iq", ".complex")
SUFFIXES = (*DATATYPES, *UNTOLD)


def read(path: Path, *, verify_data: bool) -> list[Reading]:  # noqa: ARG001 there is no checksum
    """The one recording of the file."""
    content = Bytes.whole(path)
    told = file_name.fields(path.stem)
    side = SideFile(path, told)
    if side.path is None and "sample_rate_hz" not in told:
        raise RecordingError(
            f"{path.name}: raw samples do not say their rate, frequency, time and place; {side.remedy}"
        )
    # Notes may follow the datatype: cu8 (rtl_sdr).
    named = ((side.text("datatype") or "").split() or [DATATYPES.get(path.suffix.lower(), "")])[0]
    if not DATATYPE.fullmatch(named):
        raise RecordingError(
            f"{path.name}: got datatype {named!r}; expected that of the samples, as cu8, ci8, ci16_le or cf32_le: "
            f"{side.remedy}"
        )
    encoding = RTL_SDR if named == "cu8" else encoding_of(named)
    samples, rest = divmod(content.size, encoding.bytes_per_sample)
    if rest or not samples:
        raise RecordingError(
            f"{path.name} has {content.size} bytes; expected whole samples of {encoding.bytes_per_sample} bytes "
            f"({named}): was it cut short, or is it of another type?"
        )
    return [
        Reading(
            name=side.name(path.stem),
            stored=StoredSamples.in_one_piece(content, encoding, 0, samples),
            sample_rate_hz=side.number("sample_rate_hz"),
            center_frequency_hz=side.number("center_frequency_hz"),
            position=side.position(),
            without_position=f"latitude_deg and longitude_deg are missing; {side.remedy}{RECEIVERS_REMEDY}",
            start_ns=side.start_ns(),
            clock_locked=side.flag("clock_locked", side.states_time),
            receiver_id=side.receiver_id(),
            full_scale_dbm=side.optional_number("full_scale_dbm"),
        )
    ]
