"""Which reader a file needs: by its name, and by its first bytes where those say more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats import raw_iq, riff, sigmf_archive, sigmf_collection, sigmf_pair, wav_iq
from rfserve.clients.formats.reading import Reading, Source
from rfserve.clients.formats.sigmf_pair import COLLECTION, DATA, META


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format and the ends of the names that its files have."""

    name: str
    suffixes: Sequence[str]
    read: Callable[..., list[Reading]]

    def names(self, path: Path) -> bool:
        """Whether the file is named as one of these."""
        return path.name.lower().endswith(tuple(self.suffixes))


COLLECTIONS = Format(name="SigMF collection", suffixes=(COLLECTION,), read=sigmf_collection.read)
PAIRS = Format(name="SigMF recording", suffixes=(META, DATA), read=sigmf_pair.read)
ARCHIVES = Format(name="SigMF archive", suffixes=sigmf_archive.SUFFIXES, read=sigmf_archive.read)
WAVS = Format(name="IQ in WAV", suffixes=wav_iq.SUFFIXES, read=wav_iq.read)
RAW = Format(name="raw IQ with a side file", suffixes=raw_iq.SUFFIXES, read=raw_iq.read)
FORMATS = (COLLECTIONS, PAIRS, ARCHIVES, WAVS, RAW)


def of(path: Path) -> Format | None:
    """The format of a file, None when it is none of them."""
    found = next((f for f in FORMATS if f.names(path)), None)
    # A header says more than a name: there are .raw and .iq files that are WAV.
    if found in {None, RAW} and riff.is_riff(path):
        return WAVS
    return found


def sources(path: Path, *, verify_data: bool) -> list[Source]:
    """What the file stands for, each to be read by itself: a collection for every recording that it lists.

    A name without a known end stands for a SigMF pair. `RecordingError` when there is no such file, or of no known
    format.
    """
    found = of(path)
    if found is None and path.is_file():
        known = "; ".join(f"{f.name} ({' '.join(f.suffixes)})" for f in FORMATS)
        raise RecordingError(f"{path.name}: got a file of an unknown format; expected one of: {known}")
    if found not in {None, PAIRS} and not path.is_file():
        raise RecordingError(f"cannot read {path.name}: there is no such file")
    if found is COLLECTIONS:
        return sigmf_collection.sources(path, verify_data=verify_data)
    readable = found or PAIRS
    return [Source(name=path.stem, read=lambda: readable.read(path, verify_data=verify_data))]
