"""Files that survive a crash: each appears whole or not at all, and is on the disk before anything builds on it."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# What a killed writer leaves has this in front, so that the next one knows it.
COMING_PREFIX = ".coming-"


@contextmanager
def lock(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file; it goes with the process that holds it. Yields whether it is held (always, with `wait`)."""
    while True:
        with file.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if _is_at(stream.fileno(), file):
                yield True
                return
        # Its last holder took it away while we waited, and the next one would lock another file.


def _is_at(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


@contextmanager
def replaced(files: Mapping[str, bytes], home: Path) -> Iterator[None]:
    """Replace the files below `home` that differ; put the old ones back when this or the body fails.

    Every new file is written and synced before the first takes its place, so a full disk stops it before anything
    changed. They take their places in the order given, each by an atomic rename. Hold the lock of `home` meanwhile.
    """
    before: dict[Path, bytes | None] = {}
    coming: dict[Path, Path] = {}
    try:
        for name, content in files.items():
            file = home / name
            old = file.read_bytes() if file.is_file() else None
            if old != content:
                file.parent.mkdir(exist_ok=True)
                coming[file] = _beside(file)
                write(coming[file], content)
                before[file] = old
        for file, beside in coming.items():
            beside.replace(file)
        for folder in {file.parent for file in coming}:
            sync(folder)
        yield
    except BaseException:
        for file, old in before.items():
            if not coming[file].exists():
                _restore(file, old)
        raise
    finally:
        for beside in coming.values():
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def write(file: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_tree(folder: Path) -> None:
    """Wait until everything below a folder is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(file: Path) -> Path:
    return file.with_name(f"{COMING_PREFIX}{file.name}")


def _restore(file: Path, old: bytes | None) -> None:
    # One file that cannot be put back must not keep the others, nor hide why they have to be.
    with suppress(OSError):
        if old is None:
            file.unlink(missing_ok=True)
        else:
            write(_beside(file), old)
            _beside(file).replace(file)
            sync(file.parent)
