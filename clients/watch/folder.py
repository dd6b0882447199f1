"""The events in a folder, and whether all of their files are there.

An event is a SigMF collection with what it lists, a SigMF archive, or a subfolder with the recordings of one event (or
with collections or archives of its own). With a group rule, recordings directly in the folder are events too: those
whose names give the rule's first group the same text. Names that begin with a dot belong to whoever copies, but
`.NAME.suffix`, as rsync writes it, says that the recording NAME is on its way.
"""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rfserve.clients.errors import ClientError, RecordingError
from rfserve.clients.formats import registry, sigmf_collection, sigmf_pair
from rfserve.clients.formats.sigmf_pair import DATA, META
from rfserve.clients.stored_samples import Bytes, is_file

# What copying and downloading programs call a file that is not whole yet.
UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".crdownload")
SIDE_FILES = (".json", ".toml")


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An event: its name in the folder, what to read, all of its files, and what is still missing of it."""

    name: str
    recordings: tuple[Path, ...]
    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()

    def stamp(self) -> str:
        """Another text whenever a file has another size or time; a file that is gone counts as well."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                found = path.stat()
                digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="replace"))
            except OSError:
                digest.update(f"{path.name}\0gone\n".encode(errors="replace"))
        return digest.hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which entries of the folder count: a pattern for names, a group rule, the least number of receivers."""

    pattern: str = "*"
    group: re.Pattern[str] | None = None
    least_receivers: int = 1

    def __post_init__(self) -> None:
        if self.group is not None and self.group.groups < 1:
            raise ClientError(f"group: got {self.group.pattern!r}; expected a group in it, as '(\\d{{8}}T\\d{{6}}Z)_'")


def scan(folder: Path, rules: Rules, done: Callable[[str], bool] = lambda _: False) -> list[Arrival]:
    """The events that are there, whole or not, by name; `ClientError` when the folder cannot be read.

    Those whose name is `done` are left out, and not looked into again, but what else comes to their subfolder is found.
    """
    try:
        entries = [p for p in _entries(folder) if fnmatch.fnmatch(_own_name(p), rules.pattern)]
        found: list[Arrival] = []
        for entry in entries:
            if entry.is_dir():
                found += _subfolder(folder, entry, rules, done)
            elif registry.COLLECTIONS.names(entry) or registry.ARCHIVES.names(entry):
                if done(entry.name):
                    continue
                found.append(_of_one_file(entry.name, entry))
        if rules.group is not None:
            found += _groups(entries, rules)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted((a for a in found if not done(a.name)), key=lambda arrival: arrival.name)


def loose(
    folder: Path, rules: Rules, arrivals: Iterable[Arrival], done: Callable[[str], bool] = lambda _: False
) -> list[Path]:
    """Recordings that belong to none of the folder's events; `ClientError` when it cannot be read.

    In a subfolder they are those beside its collections and archives, unless they were its event before those came.
    """
    listed = {path for arrival in arrivals for path in arrival.files}
    try:
        places = [p for p in _entries(folder) if p.is_dir() and fnmatch.fnmatch(p.name, rules.pattern)]
        places = [folder, *(p for p in places if not done(_of_subfolder(p)))]
        files = [p for place in places for p in _entries(place) if p.is_file()]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return [p for p in files if _is_recording(p) and p not in listed]


def _unreadable(folder: Path, error: OSError) -> ClientError:
    return ClientError(f"cannot look into {folder}: {error}; expected a folder that can be read")


def _entries(folder: Path) -> list[Path]:
    """What is visible, and recordings that are on their way."""
    return sorted(p for p in folder.iterdir() if not _own_name(p).startswith("."))


def _own_name(path: Path) -> str:
    """The name of a file; of a recording that is on its way, the one that it will have."""
    own = path.stem.removeprefix(".")
    # Hidden recordings, and their side files, are hidden on purpose.
    whole = not path.name.startswith(".") or _is_recording(path) or path.suffix in SIDE_FILES
    return own if _is_recording(Path(own)) and not whole else path.name


def _is_recording(path: Path) -> bool:
    return any(f.names(path) for f in (registry.PAIRS, registry.WAVS, registry.RAW))


def _subfolder(folder: Path, entry: Path, rules: Rules, done: Callable[[str], bool]) -> Iterator[Arrival]:
    files = [p for p in _entries(entry) if p.is_file()]
    whole = [p for p in files if registry.COLLECTIONS.names(p) or registry.ARCHIVES.names(p)]
    for path in whole:
        name = str(path.relative_to(folder))
        if not done(name):
            yield _of_one_file(name, path)
    own = _of_subfolder(entry)
    if not whole and not done(own) and any(_is_recording(p) for p in files):
        yield _of_recordings(own, files, rules)


def _of_subfolder(entry: Path) -> str:
    """The name of a subfolder's event: with a slash, which no group and no file beside it can have."""
    return f"{entry.name}/"


def _groups(entries: list[Path], rules: Rules) -> Iterator[Arrival]:
    groups: dict[str, list[Path]] = {}
    for path in entries:
        match = rules.group.search(_own_name(path)) if rules.group is not None and path.is_file() else None
        if match is not None and match[1]:
            groups.setdefault(match[1], []).append(path)
    for name, files in groups.items():
        if any(_is_recording(p) for p in files):
            yield _of_recordings(name, files, rules)


def _of_one_file(name: str, path: Path) -> Arrival:
    if not registry.COLLECTIONS.names(path):
        return Arrival(name=name, recordings=(path,), files=(path,))
    try:
        content = sigmf_pair.parse(Bytes.whole(path), path.name)
        stems = [stream.name for stream in sigmf_collection.streams(content, path.name)]
    except RecordingError:
        # Half written, or bad: reading it says which, once it has settled.
        stems = []
    parts = [path.with_name(stem + suffix) for stem in stems for suffix in (META, DATA)]
    missing = tuple(p.name for p in parts if not is_file(p))
    return Arrival(name=name, recordings=(path,), files=(path, *parts), missing=missing)


def _of_recordings(name: str, files: list[Path], rules: Rules) -> Arrival:
    names = {p.name for p in files}
    missing = [p.name for p in files if p.name.lower().endswith(UNFINISHED)]
    missing += [own for own in map(_own_name, files) if own not in names]
    recordings = []
    for path in files:
        if path.name.endswith((META, DATA)):
            other = path.name.removesuffix(META) + DATA if path.name.endswith(META) else None
            other = other or path.name.removesuffix(DATA) + META
            if other not in names:
                missing.append(other)
            if other not in names or path.name.endswith(META):
                recordings.append(path)
        elif _is_recording(path):
            recordings.append(path)
    lacking = rules.least_receivers - len(recordings)
    if lacking > 0 and not missing:
        missing.append(f"{lacking} more receivers")
    return Arrival(name=name, recordings=tuple(recordings), files=tuple(files), missing=tuple(dict.fromkeys(missing)))
