"""SigMF archives: recordings, and a collection perhaps, in a tar or zip; nothing is ever unpacked to disk."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, cast

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats import sigmf_collection, sigmf_pair
from rfserve.clients.formats.reading import Reading, Source
from rfserve.clients.formats.sigmf_collection import Stream
from rfserve.clients.formats.sigmf_pair import COLLECTION, DATA, META
from rfserve.clients.stored_samples import Bytes

SUFFIXES = (".sigmf", ".sigmf.gz", ".sigmf.xz", ".sigmf.bz2", ".sigmf.zip")
# What a compressed archive may unpack to is held in memory.
MOST_UNPACKED_BYTES = 512 << 20
MOST_MEMBERS = 10_000
BLOCK_BYTES = 1 << 20
OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    # How zipfile says that a member is encrypted, or compressed in a way it does not know.
    RuntimeError,
)


def sources(path: Path, *, verify_data: bool) -> list[Source]:
    """The recordings of the archive, in the order of its collection, else by name; one that fails if it has none."""
    try:
        return _sources(path, verify=verify_data)
    except RecordingError as error:
        # It may be the archive of one receiver, which can then be left out.
        return [Source(name=path.stem, read=partial(_refuse, error))]


def _refuse(error: RecordingError) -> NoReturn:
    raise error


def _sources(path: Path, *, verify: bool) -> list[Source]:
    try:
        members = _members(path)
    except UNREADABLE as error:
        raise RecordingError(
            f"cannot read {path.name}: {error}; expected a SigMF archive (tar, or compressed): is it whole?"
        ) from error
    collections = [name for name in members if name.endswith(COLLECTION)]
    if len(collections) > 1:
        raise RecordingError(
            f"{path.name} holds {len(collections)} collections; expected one: write an archive for each"
        )
    if collections:
        name = f"{path.name}: {collections[0]}"
        streams = sigmf_collection.streams(sigmf_pair.parse(members[collections[0]], name), name)
        return [Source(name=s.name, read=partial(_read_stream, path, members, s, verify=verify)) for s in streams]
    # By the names of their metadata: the place gives a receiver without an id its own.
    stems = sorted({name.rpartition(".")[0] for name in members}, key=lambda stem: stem + META)
    if not stems:
        raise RecordingError(f"{path.name} holds no {META}; expected a SigMF archive")
    return [Source(name=PurePosixPath(s).name, read=partial(_read, path, members, s, verify=verify)) for s in stems]


def _read_stream(path: Path, members: Mapping[str, Bytes], stream: Stream, *, verify: bool) -> list[Reading]:
    # Archives put each recording into a folder of its own, or beside the collection.
    stems = [name.removesuffix(META) for name in members if PurePosixPath(name).name == stream.name + META]
    if len(stems) != 1:
        raise RecordingError(f"{path.name}: its collection lists {stream.name}, which it holds {len(stems)} times")
    meta = stems[0] + META
    sigmf_pair.require_hash(members[meta], f"{path.name}: {meta}", stream.sha512)
    return _read(path, members, stems[0], verify=verify)


def _read(path: Path, members: Mapping[str, Bytes], stem: str, *, verify: bool) -> list[Reading]:
    meta, data = stem + META, stem + DATA
    for one, other in ((meta, data), (data, meta)):
        if other not in members:
            raise RecordingError(f"{path.name} holds {one} without {other}; a SigMF recording is a pair of files")
    reading = sigmf_pair.reading(
        PurePosixPath(stem).name,
        sigmf_pair.parse(members[meta], f"{path.name}: {meta}"),
        members[data],
        meta=f"{path.name}: {meta}",
        data=f"{path.name}: {data}",
        verify=verify,
    )
    return [reading]


class _Headers:
    """A file for tarfile, which reads a header of any length that the archive claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > BLOCK_BYTES:
            raise ValueError(f"it has a header of {size} bytes")
        return self._file.read(size)


def _members(path: Path) -> dict[str, Bytes]:
    """The SigMF files inside, by their names there; those of a plain tar stay where they are."""
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith((b"PK\3\4", b"PK\5\6")):
            return _zipped(path, file)
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            raise ValueError("it is compressed with zstd; unpack it with `zstd -d` first")
        opener = next((o for start, o in OPENERS.items() if magic.startswith(start)), None)
        if opener is None:
            return _tarred(path, file, held=None, size=path.stat().st_size)
        with opener(file) as stream:
            unpacked = _unpacked(path, stream, MOST_UNPACKED_BYTES)
        return _tarred(path, unpacked, held=unpacked.getvalue(), size=unpacked.getbuffer().nbytes)


def _tarred(path: Path, file: IO[bytes], *, held: bytes | None, size: int) -> dict[str, Bytes]:
    found: dict[str, Bytes] = {}
    file.seek(0)
    with tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode="r:") as archive:
        for number, member in enumerate(archive, start=1):
            _require_few(number)
            # A link or a file with holes has no bytes of its own here.
            if _is_ours(member.name) and member.isreg() and not member.issparse():
                piece = Bytes(file=path, first=member.offset_data, size=member.size, held=held)
                _add(found, member.name, piece, size)
        # tarfile takes a header that is damaged or cut for the end, which is zeros.
        file.seek(archive.offset)
        end = file.read(BLOCK_BYTES)
        if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
            raise ValueError(f"at byte {archive.offset} it has neither another member nor an end")
    return found


def _zipped(path: Path, file: IO[bytes]) -> dict[str, Bytes]:
    found: dict[str, Bytes] = {}
    unpacked = 0
    with zipfile.ZipFile(file) as archive:
        _require_few(len(archive.infolist()))
        for member in archive.infolist():
            if _is_ours(member.filename) and not member.is_dir():
                with archive.open(member) as stream:
                    held = _unpacked(path, stream, MOST_UNPACKED_BYTES - unpacked).getvalue()
                unpacked += len(held)
                _add(found, member.filename, Bytes(file=path, first=0, size=len(held), held=held), len(held))
    return found


def _is_ours(name: str) -> bool:
    place = PurePosixPath(name)
    # macOS puts what it notes of a file beside it, under a like name.
    is_note = place.name.startswith("._") or "__MACOSX" in place.parts
    return name.endswith((META, DATA, COLLECTION)) and not is_note


def _add(found: dict[str, Bytes], name: str, piece: Bytes, end: int) -> None:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\\" in name:
        raise ValueError(f"its member {name!r} leads outside of it")
    if name in found:
        raise ValueError(f"it holds {name!r} twice")
    if piece.first + piece.size > end:
        raise ValueError(f"its member {name!r} ends after the archive does")
    found[name] = piece


def _require_few(members: int) -> None:
    if members > MOST_MEMBERS:
        raise ValueError(f"it has more than {MOST_MEMBERS} members")


def _unpacked(path: Path, stream: IO[bytes], most: int) -> io.BytesIO:
    held = io.BytesIO()
    while block := stream.read(min(BLOCK_BYTES, most - held.tell() + 1)):
        held.write(block)
        if held.tell() > most:
            raise RecordingError(
                f"{path.name} unpacks to more than {MOST_UNPACKED_BYTES >> 20} MiB; unpack it, and give what it holds"
            )
    return held
