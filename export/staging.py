"""The hidden folders of a model: versions that come, versions that go, and what a crash left of either."""

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rfserve.export import durable_files

INCOMING_PREFIX = ".incoming-"
RETIRED_PREFIX = ".retired-"
LOCK_NAME = ".lock"
VERSION_NAME = re.compile(r"[1-9][0-9]*")


@contextmanager
def incoming(home: Path) -> Iterator[Path]:
    """A folder for the files of a version to come, taken away at the end with what is still in it.

    Whoever finds it can tell by its lock whether its writer lives; process ids mean nothing on a shared volume.
    """
    staging = home / f"{INCOMING_PREFIX}{uuid.uuid4().hex}"
    with ExitStack() as held:
        try:
            with _locked_home(home):
                clear_leftovers(home)
                (staging / "files").mkdir(parents=True)
                held.enter_context(durable_files.lock(staging / LOCK_NAME))
            yield staging / "files"
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked_home(home: Path) -> Iterator[None]:
    with ExitStack() as held:
        while True:
            home.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(durable_files.lock(home / LOCK_NAME))
            except FileNotFoundError:
                continue  # another first publication failed just now, and took its folder away
            break
        yield


def clear_leftovers(home: Path) -> None:
    """Take away what killed writers left. Hold the lock of `home`: then nobody else writes there but in staging."""
    for staging in home.glob(f"{INCOMING_PREFIX}*"):
        if _abandoned(staging):
            shutil.rmtree(staging, ignore_errors=True)
    for folder in (home, home / "configs", home / "warmup"):
        for file in folder.glob(f"{durable_files.COMING_PREFIX}*"):
            file.unlink(missing_ok=True)
    for hidden in retired(home).values():
        empty(hidden)


def _abandoned(staging: Path) -> bool:
    if not (staging / LOCK_NAME).exists():
        return True  # it is made and locked under the lock that we hold
    try:
        with durable_files.lock(staging / LOCK_NAME, wait=False) as free:
            return free
    except FileNotFoundError:
        return False  # its writer has just cleared it away


def empty(folder: Path) -> None:
    """Take away what is in a folder, and leave the folder."""
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()


def retired(home: Path) -> dict[int, Path]:
    """The versions that are out of sight already and not quite gone."""
    hidden = {f.name.removeprefix(RETIRED_PREFIX): f for f in home.glob(f"{RETIRED_PREFIX}*")}
    return {int(name): folder for name, folder in hidden.items() if VERSION_NAME.fullmatch(name)}


def remove_if_bare(folder: Path) -> None:
    """Take away a folder that this publication made, with the empty ones and the lock in it."""
    with suppress(OSError):
        if not (folder / LOCK_NAME).exists():
            folder.rmdir()
            return
        with durable_files.lock(folder / LOCK_NAME, wait=False) as free:
            if not free or any(f.is_file() or f.name.startswith(INCOMING_PREFIX) for f in _inside(folder)):
                return
            for inner in (folder / "configs", folder / "warmup"):
                if inner.is_dir():
                    inner.rmdir()
            (folder / LOCK_NAME).unlink()
            folder.rmdir()


def _inside(folder: Path) -> Iterator[Path]:
    return (f for f in folder.rglob("*") if f != folder / LOCK_NAME)
