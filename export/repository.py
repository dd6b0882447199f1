"""A Triton model repository on a local disk: versions appear whole or not at all, and never change."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rfserve.export import pbtxt, serving
from rfserve.export.errors import RepositoryError, VersionExists, VersionNotFound
from rfserve.export.manifest import FILE_NAME, Manifest, file_facts
from rfserve.export.serving import Event, Serving
from rfserve.export.spec import ModelSpec, example
from rfserve.export.spec.model import TARGETS, Served
from rfserve.export.spec.precision import suits

STAGING_PREFIX = ".incoming-"
LOCK_NAME = ".lock"

Fill = Callable[[Path], Callable[[int], Manifest]]
Change = Callable[[Serving], Serving]


class Repository:
    """The folder that `tritonserver --model-repository` reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def location(self) -> str:
        """Where it is, as messages say it."""
        return str(self.folder)

    def models(self) -> list[str]:
        """The models that have a folder, by name; `RepositoryError` when the repository is not there."""
        if not self.folder.is_dir():
            raise RepositoryError(
                f"no model repository at {self.location}; write one with `rfserve-export write MODEL`"
            )
        return sorted(f.name for f in self.folder.iterdir() if f.is_dir() and not f.name.startswith("."))

    def versions(self, model: str) -> list[int]:
        """The published versions of a model, ascending."""
        home = self.folder / model
        if not home.is_dir():
            return []
        return sorted(int(f.name) for f in home.iterdir() if f.is_dir() and f.name.isdigit())

    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version; `RepositoryError` when it cannot be read."""
        return Manifest.read(self.folder / model / str(version))

    def manifest_sha256(self, model: str, version: int) -> str:
        """The SHA-256 of a version's manifest, which stands for the whole version."""
        with self.version_folder(model, version) as folder:
            return str(file_facts(folder / FILE_NAME)["sha256"])

    @contextmanager
    def version_folder(self, model: str, version: int) -> Iterator[Path]:
        """A local folder with the files of a version, to be read only, as long as the context lasts."""
        if version not in self.versions(model):
            raise VersionNotFound(
                f"{model}/{version} is not published in {self.location}; it has {self.versions(model) or 'no version'}"
            )
        yield self.folder / model / str(version)

    def precisions(self, model: str) -> dict[int, str]:
        """The precision of every published version; one whose manifest cannot be read is left out."""
        found = {}
        for version in self.versions(model):
            with suppress(RepositoryError):
                found[version] = self.manifest(model, version).precision
        return found

    def serving(self, model: str) -> Serving:
        """What is promoted, and the history; `RepositoryError` when the file is damaged."""
        try:
            return Serving.from_json((self.folder / model / serving.FILE_NAME).read_text())
        except FileNotFoundError:
            return Serving()

    def change_serving(self, spec: Served, change: Change) -> Serving:
        """Replace what is promoted by what `change` makes of it, and write the configuration that follows.

        One change at a time. The decision is written first: a crash between the two leaves a configuration that
        `check` names and `write_configuration` mends.
        """
        home = self.folder / spec.name
        try:
            with _lock(home):
                after = change(self.serving(spec.name))
                # Refuses, before anything is written, to serve a version that is not published.
                files = _model_files(spec, self._policies(spec.name, after))
                _replace(home / serving.FILE_NAME, after.to_json().encode())
                with _replaced(files, home):
                    return after
        except OSError as error:
            raise RepositoryError(f"{spec.name}: cannot write to the repository {self.folder}: {error}") from error

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
                state = self.serving(spec.name)
                with _replaced(_model_files(spec, self._policies_before(state, manifest)), home):
                    staging.rename(home / str(number))
                _sync(home)
                self._record(spec, state, Event(action="publish", version=number, note=manifest.precision))
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
        with _replaced(_model_files(spec, self._policies(spec.name, self.serving(spec.name))), home):
            pass

    def configuration(self, spec: Served) -> dict[str, str]:
        """The configuration files as they should be, by path below the model's folder."""
        return configuration_files(spec, self._policies(spec.name, self.serving(spec.name)))

    def read_configuration(self, spec: Served) -> dict[str, str | None]:
        """The configuration files as they are; None for one that is missing."""
        home = self.folder / spec.name
        return {n: (home / n).read_text() if (home / n).is_file() else None for n in configuration_files(spec)}

    def _record(self, spec: Served, state: Serving, event: Event) -> None:
        """Note a publication that has happened, and let the targets that it suits serve it."""
        home = self.folder / spec.name
        after = state.with_event(event)
        _replace(home / serving.FILE_NAME, after.to_json().encode())
        with _replaced(_model_files(spec, self._policies(spec.name, after)), home):
            pass

    def _policies(self, model: str, state: Serving) -> dict[str, int | None]:
        precisions = self.precisions(model)
        return {target: state.policy(target, precisions) for target in TARGETS}

    def _policies_before(self, state: Serving, coming: Manifest) -> dict[str, int | None]:
        """The policies to write before a version appears: a target that it does not suit must never pick it up."""
        before = self.precisions(coming.model)
        after = before | {coming.version: coming.precision}
        return {t: state.policy(t, before if suits(t, coming.precision) else after) for t in TARGETS}

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


def configuration_files(spec: Served, policies: Mapping[str, int | None] | None = None) -> dict[str, str]:
    """The text files of a model that git holds, by path below its folder. The plain `config.pbtxt` is the CPU's.

    `policies` holds the version that each target serves; Triton takes the newest where it is None.
    """
    chosen = policies or {}
    texts = {f"configs/{target}.pbtxt": pbtxt.config_text(spec, target, chosen.get(target)) for target in TARGETS}
    return {"config.pbtxt": texts["configs/cpu.pbtxt"], **texts}


def _model_files(spec: Served, policies: Mapping[str, int | None]) -> dict[str, bytes]:
    files = {name: text.encode() for name, text in configuration_files(spec, policies).items()}
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
