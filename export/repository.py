"""A Triton model repository on a local disk: versions appear whole or not at all, and never change."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rfserve.export import durable_files, serving, staging
from rfserve.export.errors import RepositoryError, VersionNotFound
from rfserve.export.manifest import FILE_NAME, Manifest, file_facts
from rfserve.export.model_repository import Change, Fill, ModelRepository, model_files
from rfserve.export.serving import Event, Serving
from rfserve.export.spec.model import TARGETS, Served
from rfserve.export.spec.precision import suits


class Repository(ModelRepository):
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
        return sorted(int(f.name) for f in home.iterdir() if f.is_dir() and staging.VERSION_NAME.fullmatch(f.name))

    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version; `RepositoryError` when it cannot be read."""
        return Manifest.read(self.folder / model / str(version))

    def sizes(self, model: str, version: int) -> dict[str, int]:
        """The files of a version as they are now, by path, in bytes; without reading them."""
        home = self.folder / model / str(version)
        try:
            return {str(f.relative_to(home)): f.lstat().st_size for f in home.rglob("*")}
        except OSError as error:
            raise RepositoryError(f"cannot look at {model}/{version} in {self.location}: {error}") from error

    @contextmanager
    def version_folder(self, model: str, version: int) -> Iterator[Path]:
        """A local folder with the files of a version, to be read only, as long as the context lasts."""
        self.require_published(model, version)
        yield self.folder / model / str(version)

    def serving(self, model: str) -> Serving:
        """What is promoted, and the history; `RepositoryError` when the file is damaged."""
        try:
            text = (self.folder / model / serving.FILE_NAME).read_text(encoding="utf-8", errors="replace")
            return Serving.from_json(text)
        except FileNotFoundError:
            return Serving()

    def change_serving(self, spec: Served, change: Change) -> Serving:
        """Replace what is promoted by what `change` makes of it, and write the configuration that follows.

        One change at a time. When anything fails, the repository is as it was. The decision is written first: a crash
        between the two leaves a configuration that `check` names and `write_configuration` mends.
        """
        if not (self.folder / spec.name).is_dir():
            raise VersionNotFound(f"{spec.name} has no version in {self.location}: `rfserve-export write {spec.name}`")
        with self._writing(spec):
            after = change(self._settled(spec.name))
            # Refuses, before anything is written, to serve a version that is not published.
            self._save(spec, after)
            return after

    def retire(self, spec: Served, version: int) -> Serving:
        """Take a version away for good; its number is never used again.

        One rename takes it from every server's sight; its files go after that. `ReleaseError` when a target serves it
        or it is the only one, `VersionNotFound` when it is not published.
        """
        home = self.folder / spec.name
        self.require_published(spec.name, version)
        with self._writing(spec):
            state = self._settled(spec.name)
            precisions = self.precisions(spec.name)
            self._refuse_retiring(spec.name, version, state, precisions)
            hidden = home / f"{staging.RETIRED_PREFIX}{version}"
            (home / str(version)).rename(hidden)
            with _finishing(f"{spec.name}/{version} is retired"):
                durable_files.sync(home)
                # Before the history is written: a full disk is a reason to retire versions.
                staging.empty(hidden)
                after = state.with_event(Event(action="retire", version=version, note=precisions[version]))
                self._save(spec, after)
                return after

    def publish(self, spec: Served, fill: Fill, version: int | None = None) -> Manifest:
        """Publish a version (default: the next one) and the configuration of its model.

        `fill` writes the version's files into the folder it is given, and returns what makes the manifest once the
        version number is known. Nothing of the version is visible to a server before the final rename; when anything
        fails before it, the repository is as it was. `VersionExists` when the version is published already or its
        number was retired, `RepositoryError` when the folder cannot be written, or what follows the rename failed.
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
        made = _missing(home)
        self._refuse_number(spec.name, version, self.serving(spec.name))
        try:
            with staging.incoming(home) as folder:
                manifest_for = fill(folder)
                with durable_files.lock(home / staging.LOCK_NAME):
                    state = self._settled(spec.name)
                    self._refuse_number(spec.name, version, state)
                    manifest = manifest_for(version or self.next_number(spec.name, state))
                    self._seal(manifest, folder)
                    before = self._files(spec, self._policies_before(state, manifest), state)
                    with durable_files.replaced(before, home):
                        folder.rename(home / str(manifest.version))
                    with _finishing(f"{spec.name}/{manifest.version} is published"):
                        for changed in (home, *(f.parent for f in made)):
                            durable_files.sync(changed)
                        event = Event(action="publish", version=manifest.version, note=manifest.precision)
                        self._save(spec, state.with_event(event))
                    return manifest
        except BaseException:
            for folder in made:
                staging.remove_if_bare(folder)
            raise

    @staticmethod
    def _seal(manifest: Manifest, folder: Path) -> None:
        """Write the manifest last, and read everything back from the disk."""
        durable_files.write(folder / FILE_NAME, manifest.to_json().encode())
        durable_files.sync_tree(folder)
        problems = manifest.differences(folder)
        if problems:
            raise RepositoryError(f"{manifest.model}: what was written reads back different: {'; '.join(problems)}")

    def write_configuration(self, spec: Served) -> None:
        """Write the files of a model that no version owns: `config.pbtxt`, its variants, warm-up data.

        Also finishes what a writer that was killed or ran out of disk left undone.
        """
        try:
            (self.folder / spec.name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RepositoryError(f"{spec.name}: cannot write to the repository {self.folder}: {error}") from error
        with self._writing(spec):
            self._save(spec, self._settled(spec.name))

    def read_file(self, model: str, name: str) -> bytes | None:
        """A file that no version owns, by its path below the model's folder; None when it is missing."""
        file = self.folder / model / name
        return file.read_bytes() if file.is_file() else None

    @contextmanager
    def _writing(self, spec: Served) -> Iterator[None]:
        try:
            with durable_files.lock(self.folder / spec.name / staging.LOCK_NAME):
                yield
        except OSError as error:
            raise RepositoryError(
                f"{spec.name}: cannot write to the repository {self.folder}: {error}; the repository is as it was"
            ) from error

    def _settled(self, model: str) -> Serving:
        """The state with what a writer did not live to note, after clearing what it left. Hold the lock."""
        home = self.folder / model
        staging.clear_leftovers(home)
        state = self.serving(model)
        missed = self._unnoted(model, state)
        gone = set(staging.retired(home)) - state.noted("retire")
        missed += [Event(action="retire", version=version) for version in sorted(gone)]
        return state.with_missed(missed)

    def _save(self, spec: Served, state: Serving) -> None:
        """Write the history and the configuration that follows from it, both or none. Hold the lock."""
        home = self.folder / spec.name
        history = {serving.FILE_NAME: state.to_json().encode()} if state != Serving() else {}
        with durable_files.replaced(history | self._files(spec, self._policies(spec.name, state), state), home):
            pass
        for hidden in staging.retired(home).values():
            shutil.rmtree(hidden, ignore_errors=True)

    @staticmethod
    def _files(spec: Served, policies: Mapping[str, int | None], state: Serving) -> dict[str, bytes]:
        return model_files(state.placing(spec), policies, state.cores)

    def _policies_before(self, state: Serving, coming: Manifest) -> dict[str, int | None]:
        """The policies to write before a version appears: a target that it does not suit must never pick it up."""
        before = self.precisions(coming.model)
        after = before | {coming.version: coming.precision}
        return {t: state.policy(t, before if suits(t, coming.precision) else after) for t in TARGETS}


def version_files(folder: Path) -> dict[str, dict[str, object]]:
    """SHA-256 and size of every file in a version folder but the manifest."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != FILE_NAME)
    return {str(f.relative_to(folder)): file_facts(f) for f in files}


@contextmanager
def _finishing(done: str) -> Iterator[None]:
    """What cannot be taken back is done: an error here must say so."""
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"{done}, but its history and configuration could not be written: {error}; make that possible, and "
            "`rfserve-export configure` finishes the job"
        ) from error


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there yet, innermost first."""
    found = []
    while not folder.exists():
        found.append(folder)
        folder = folder.parent
    return found
