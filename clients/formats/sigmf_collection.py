"""SigMF collections: the recordings that one lists, unchanged since it was written."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats import sigmf_pair
from rfserve.clients.formats.reading import Reading, Source
from rfserve.clients.formats.sigmf_pair import META
from rfserve.clients.stored_samples import Bytes, is_file

# Of a name in common file systems.
MOST_NAME_BYTES = 255


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A recording that a collection lists: what the names of its two files share, and its metadata's SHA-512."""

    name: str
    sha512: object


def sources(path: Path, *, verify_data: bool) -> list[Source]:
    """The recordings beside the collection, in its order; `RecordingError` when it lists none."""
    listed = streams(sigmf_pair.parse(Bytes.whole(path), path.name), path.name)
    return [Source(name=s.name, read=partial(_read_stream, path, s, verify_data=verify_data)) for s in listed]


def _read_stream(collection: Path, stream: Stream, *, verify_data: bool) -> list[Reading]:
    meta = collection.with_name(stream.name + META)
    if not is_file(meta):
        raise RecordingError(f"{collection.name} lists {stream.name}, but there is no {meta.name} beside it; add it")
    sigmf_pair.require_hash(Bytes.whole(meta), meta.name, stream.sha512)
    return sigmf_pair.read(meta, verify_data=verify_data)


def streams(content: Mapping[str, Any], name: str) -> list[Stream]:
    """What the collection lists; `RecordingError` when that is nothing, or leads elsewhere."""
    listed = content.get("collection")
    entries = listed.get("core:streams") if isinstance(listed, dict) else None
    if not isinstance(entries, list) or not entries:
        raise RecordingError(f"{name} lists no streams; expected one in core:streams for each receiver")
    found = []
    for entry in entries:
        # SigMF 1 had pairs of the two.
        fields = dict(zip(("name", "hash"), entry, strict=False)) if isinstance(entry, list) else entry
        stem = fields.get("name") if isinstance(fields, dict) else None
        if not isinstance(stem, str) or not _is_beside(stem):
            raise RecordingError(f"{name}: got stream {entry!r}; expected the name of a recording beside it")
        found.append(Stream(name=stem, sha512=fields.get("hash")))
    return found


def _is_beside(stem: str) -> bool:
    """Whether a file can be called so; a name that leads elsewhere is none of those beside the collection."""
    fits = len((stem + META).encode(errors="replace")) <= MOST_NAME_BYTES
    return bool(stem) and Path(stem).name == stem and "\0" not in stem and fits
