"""Which reader a file needs: by its name, and by its first bytes where those say more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats import raw_iq, riff, sigmf_archive, sigmf_collection, sigmf_pair, wav_iq
from rfserve.clients.formats.reading import Reading, Source
from rfserve.clients.formats.sigmf_pair import COLLECTION, DATA, META
from rfserve.clients.stored_samples import is_file, is_folder


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format, the ends of the names that its files have, and what one of them stands for, as `Source`s."""

    name: str
    suffixes: Sequence[str]
    sources: Callable[..., list[Source]]

    def names(self, path: Path) -> bool:
        """Whether the file is named as one of these."""
        return path.name.lower().endswith(tuple(self.suffixes))


def _as_a_whole(read: Callable[..., list[Reading]]) -> Callable[..., list[Source]]:
    """Most files are read in one go, or not at all."""

    def sources(path: Path, *, verify_data: bool) -> list[Source]:
        return [Source(name=path.stem, read=partial(read, path, verify_data=verify_data))]

    return sources


COLLECTIONS = Format(name="SigMF collection", suffixes=(COLLECTION,), sources=sigmf_collection.sources)
PAIRS = Format(name="SigMF recording", suffixes=(META, DATA), sources=_as_a_whole(sigmf_pair.read))
ARCHIVES = Format(name="SigMF archive", suffixes=sigmf_archive.SUFFIXES, sources=sigmf_archive.sources)
WAVS = Format(name="IQ in WAV", suffixes=wav_iq.SUFFIXES, sources=_as_a_whole(wav_iq.read))
RAW = Format(name="raw IQ with a side file", suffixes=raw_iq.SUFFIXES, sources=_as_a_whole(raw_iq.read))
FORMATS = (COLLECTIONS, PAIRS, ARCHIVES, WAVS, RAW)


def of(path: Path) -> Format | None:
    """The format of a file, None when it is none of them."""
    found = next((f for f in FORMATS if f.names(path)), None)
    # A header says more than a name: there are .raw and .iq files that are WAV.
    if found in {None, RAW} and riff.is_riff(path):
        return WAVS
    return found


def sources(path: Path, *, verify_data: bool) -> list[Source]:
    """What the file stands for, each to be read by itself.

    A name without a known end stands for a SigMF pair. `RecordingError` when there is no such file, or of no known
    format.
    """
    found, is_there = of(path), is_file(path)
    # A stem may also be a folder's name.
    if is_folder(path) and not (found is None and path.name and is_file(path.with_name(path.name + META))):
        raise RecordingError(
            f"{path} is a folder; name its collection or its recordings, or give it to `rfserve-client batch`"
        )
    if found is None and is_there:
        known = "; ".join(f"{f.name} ({' '.join(f.suffixes)})" for f in FORMATS)
        raise RecordingError(f"{path.name}: got a file of an unknown format; expected one of: {known}")
    if found not in {None, PAIRS} and not is_there:
        raise RecordingError(f"cannot read {path.name}: there is no such file, or its folder may not be entered")
    return (found or PAIRS).sources(path, verify_data=verify_data)
