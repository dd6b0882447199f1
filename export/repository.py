"""A Triton model repository on a local disk: versions appear whole or not at all, and never change."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rfserve.export import pbtxt
from rfserve.export.errors import RepositoryError, VersionExists
from rfserve.export.manifest import FILE_NAME, Manifest, file_facts
from rfserve.export.spec import ModelSpec, example
from rfserve.export.spec.model import TARGETS, Served

STAGING_PREFIX = ".incoming-"
LOCK_NAME = ".lock"

Fill = Callable[[Path], Callable[[int], Manifest]]


class Repository:
    """The folder that `tritonserver --model-repository` reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self, model: str) -> list[int]:
        """The published versions of a model, ascending."""
        home = self.folder / model
        if not home.is_dir():
            return []
        return sorted(int(f.name) for f in home.iterdir() if f.is_dir() and f.name.isdigit())

    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version; `RepositoryError` when it cannot be read."""
        return Manifest.read(self.folder / model / str(version))

    def publish(self, spec: Served, fill: Fill, version: int | None = None) -> Manifest:
        """Publish a version (default: the next one) and the configuration of its model.

        `fill` writes the version's files into the folder it is given, and returns what makes the manifest once the
        version number is known. Nothing of the version is visible to a server before the final rename; when anything
        fails before it, the repository is as it was. `VersionExists` when the version is published already,
        `RepositoryError` when the folder cannot be written.
        """
        if version is not None and version < 1:
            raise RepositoryError(f"{spec.name}: got version {version}; expected 1 or more")
        try:
            return self._publish(spec, fill, version)
        except OSError as error:
            raise RepositoryError(
                f"{spec.name}: cannot write to the repository {self.folder}: {error}; the repository is as it was"
            ) from error

    def _publish(self, spec: Served, fill: Fill, version: int | None) -> Manifest:
        home = self.folder / spec.name
        made = _made_by_us(self.folder) + _made_by_us(home)
        self._refuse_existing(spec.name, version)
        home.mkdir(parents=True, exist_ok=True)
        staging = home / f"{STAGING_PREFIX}{os.getpid()}"
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            manifest_for = fill(staging)
            with _lock(home):
                self._clear_abandoned(home, staging)
                self._refuse_existing(spec.name, version)
                number = version or max(self.versions(spec.name), default=0) + 1
                manifest = manifest_for(number)
                _write(staging / FILE_NAME, manifest.to_json().encode())
                _sync_tree(staging)
                problems = manifest.differences(staging)
                if problems:
                    raise RepositoryError(f"{spec.name}: what was written reads back different: {'; '.join(problems)}")
                with _replaced(_model_files(spec), home):
                    staging.rename(home / str(number))
                _sync(home)
                return manifest
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            for folder in reversed(made):
                _remove_if_bare(folder)
            raise

    def write_configuration(self, spec: Served) -> None:
        """Write the files of a model that no version owns: `config.pbtxt`, its variants, warm-up data."""
        home = self.folder / spec.name
        home.mkdir(parents=True, exist_ok=True)
        with _replaced(_model_files(spec), home):
            pass

    def _refuse_existing(self, model: str, version: int | None) -> None:
        if version is not None and version in self.versions(model):
            raise VersionExists(
                f"{model}/{version} is published already and versions are immutable; leave --version out to get "
                f"{max(self.versions(model)) + 1}"
            )

    @staticmethod
    def _clear_abandoned(home: Path, own: Path) -> None:
        for folder in home.glob(f"{STAGING_PREFIX}*"):
            owner = folder.name.removeprefix(STAGING_PREFIX)
            if folder != own and not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
                shutil.rmtree(folder, ignore_errors=True)


def configuration_files(spec: Served) -> dict[str, str]:
    """The text files of a model that git holds, by path below its folder. The plain `config.pbtxt` is the CPU's."""
    texts = {f"configs/{target}.pbtxt": pbtxt.config_text(spec, target) for target in TARGETS}
    return {"config.pbtxt": texts["configs/cpu.pbtxt"], **texts}


def _model_files(spec: Served) -> dict[str, bytes]:
    files = {name: text.encode() for name, text in configuration_files(spec).items()}
    if isinstance(spec, ModelSpec):
        files |= {f"warmup/{name}": array[0].tobytes() for name, array in example(spec).items()}
    return files


def version_files(folder: Path) -> dict[str, dict[str, object]]:
    """SHA-256 and size of every file in a version folder but the manifest."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != FILE_NAME)
    return {str(f.relative_to(folder)): file_facts(f) for f in files}


@contextmanager
def _replaced(files: Mapping[str, bytes], home: Path) -> Iterator[None]:
    """Write the files that differ, each by an atomic rename; put the old ones back when the body fails."""
    before: dict[Path, bytes | None] = {}
    try:
        for name, content in files.items():
            file = home / name
            old = file.read_bytes() if file.is_file() else None
            if old != content:
                before[file] = old
                file.parent.mkdir(exist_ok=True)
                _replace(file, content)
        yield
    except BaseException:
        for file, old in before.items():
            if old is None:
                file.unlink(missing_ok=True)
            else:
                _replace(file, old)
        raise


def _replace(file: Path, content: bytes) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        _write(beside, content)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    _sync(file.parent)


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """One publisher at a time; the lock goes with the process that holds it."""
    with (home / LOCK_NAME).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made_by_us(folder: Path) -> list[Path]:
    return [] if folder.exists() else [folder]


def _remove_if_bare(folder: Path) -> None:
    """Take away a folder that this publication made, with the empty ones and the lock in it."""
    (folder / LOCK_NAME).unlink(missing_ok=True)
    for inner in (folder / "configs", folder / "warmup", folder):
        if inner.is_dir() and not any(inner.iterdir()):
            inner.rmdir()
