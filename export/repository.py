"""A Triton model repository on a local disk: versions appear whole or not at all, and never change."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rfserve.export import durable_files, pbtxt, serving, staging
from rfserve.export.errors import ReleaseError, RepositoryError, VersionExists, VersionNotFound
from rfserve.export.manifest import FILE_NAME, Manifest, file_facts
from rfserve.export.serving import Event, Serving
from rfserve.export.spec import ModelSpec, example
from rfserve.export.spec.model import TARGETS, Served
from rfserve.export.spec.precision import suits

# What a version counts as whose manifest cannot be read: it suits no target, and Triton would still find it.
UNREADABLE = "unreadable"

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
        return sorted(int(f.name) for f in home.iterdir() if f.is_dir() and staging.VERSION_NAME.fullmatch(f.name))

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
        """The precision of every published version; `unreadable` where the manifest is."""
        found = dict.fromkeys(self.versions(model), UNREADABLE)
        for version in found:
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
        if version not in self.versions(spec.name):
            raise VersionNotFound(
                f"{spec.name}/{version} is not published in {self.location}; it has "
                f"{self.versions(spec.name) or 'no version'}"
            )
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
                    manifest = manifest_for(version or self._next_number(spec.name, state))
                    self._seal(manifest, folder)
                    before = _model_files(spec, self._policies_before(state, manifest))
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

    def configuration(self, spec: Served) -> dict[str, str]:
        """The configuration files as they should be, by path below the model's folder."""
        return configuration_files(spec, self._policies(spec.name, self.serving(spec.name)))

    def read_configuration(self, spec: Served) -> dict[str, str | None]:
        """The configuration files as they are; None for one that is missing."""
        home = self.folder / spec.name
        return {n: (home / n).read_text() if (home / n).is_file() else None for n in configuration_files(spec)}

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
        missed = []
        for version, precision in self.precisions(model).items():
            if version not in state.noted("publish"):
                event = Event(action="publish", version=version, note=precision)
                if precision != UNREADABLE:
                    event = replace(event, at_utc=self.manifest(model, version).created_utc)
                missed.append(event)
        gone = set(staging.retired(home)) - state.noted("retire")
        missed += [Event(action="retire", version=version) for version in sorted(gone)]
        return state.with_missed(missed)

    def _save(self, spec: Served, state: Serving) -> None:
        """Write the history and the configuration that follows from it, both or none. Hold the lock."""
        home = self.folder / spec.name
        history = {serving.FILE_NAME: state.to_json().encode()} if state != Serving() else {}
        with durable_files.replaced(history | _model_files(spec, self._policies(spec.name, state)), home):
            pass
        for hidden in staging.retired(home).values():
            shutil.rmtree(hidden, ignore_errors=True)

    def _next_number(self, model: str, state: Serving) -> int:
        """Above every number that is or ever was published."""
        return max([*self.versions(model), *(e.version for e in state.events)], default=0) + 1

    def _refuse_number(self, model: str, version: int | None, state: Serving) -> None:
        following = self._next_number(model, state)
        if version in self.versions(model):
            raise VersionExists(
                f"{model}/{version} is published already and versions are immutable; leave --version out to get "
                f"{following}"
            )
        if version in state.noted("retire"):
            raise VersionExists(
                f"{model}/{version} was retired and a number is never used twice; leave --version out to get "
                f"{following}"
            )

    @staticmethod
    def _refuse_retiring(model: str, version: int, state: Serving, precisions: Mapping[int, str]) -> None:
        if set(precisions) == {version}:
            raise ReleaseError(f"{model}/{version} is the only version; publish another one before it is retired")
        serving_it = [t for t in TARGETS if state.served(t, precisions) == version]
        if serving_it:
            raise ReleaseError(
                f"{model}/{version} is what {' and '.join(serving_it)} serves; promote another version first"
            )

    def _policies(self, model: str, state: Serving) -> dict[str, int | None]:
        precisions = self.precisions(model)
        return {target: state.policy(target, precisions) for target in TARGETS}

    def _policies_before(self, state: Serving, coming: Manifest) -> dict[str, int | None]:
        """The policies to write before a version appears: a target that it does not suit must never pick it up."""
        before = self.precisions(coming.model)
        after = before | {coming.version: coming.precision}
        return {t: state.policy(t, before if suits(t, coming.precision) else after) for t in TARGETS}


def configuration_files(spec: Served, policies: Mapping[str, int | None] | None = None) -> dict[str, str]:
    """The text files of a model that git holds, by path below its folder. The plain `config.pbtxt` is the CPU's.

    `policies` holds the version that each target serves; Triton takes the newest where it is None.
    """
    chosen = policies or {}
    texts = {
        f"configs/{name}.pbtxt": pbtxt.config_text(spec, name, chosen.get(configuration.target))
        for name, configuration in pbtxt.CONFIGURATIONS.items()
    }
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
