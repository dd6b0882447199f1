"""What every model repository does, wherever it is kept: its interface, and the configuration that follows from it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from rfserve.export import pbtxt
from rfserve.export.errors import (
    ReleaseError,
    RepositoryError,
    StoreRefused,
    StoreUnavailable,
    VersionExists,
    VersionNotFound,
)
from rfserve.export.manifest import FILE_NAME, Manifest, file_facts
from rfserve.export.serving import Event, Serving
from rfserve.export.spec import EnsembleSpec, ModelSpec, example
from rfserve.export.spec.model import TARGETS, Served

# What a version counts as whose manifest cannot be read: it suits no target, and Triton would still find it.
UNREADABLE = "unreadable"

Fill = Callable[[Path], Callable[[int], Manifest]]
Change = Callable[[Serving], Serving]


class ModelRepository(ABC):
    """What `tritonserver --model-repository` reads: versions that appear whole or not at all, and never change."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where it is, as messages say it."""

    @abstractmethod
    def models(self) -> list[str]:
        """The models that have a folder, by name; `RepositoryError` when the repository is not there."""

    @abstractmethod
    def versions(self, model: str) -> list[int]:
        """The published versions of a model, ascending."""

    @abstractmethod
    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version; `RepositoryError` when it cannot be read."""

    @abstractmethod
    def sizes(self, model: str, version: int) -> dict[str, int]:
        """The files of a version as they are now, by path, in bytes; without reading them."""

    @abstractmethod
    def version_folder(self, model: str, version: int) -> AbstractContextManager[Path]:
        """A local folder with the files of a version, to be read only, as long as the context lasts."""

    @abstractmethod
    def serving(self, model: str) -> Serving:
        """What is promoted, and the history; `RepositoryError` when the file is damaged."""

    @abstractmethod
    def change_serving(self, spec: Served, change: Change) -> Serving:
        """Replace what is promoted by what `change` makes of it, and write the configuration that follows."""

    @abstractmethod
    def publish(self, spec: Served, fill: Fill, version: int | None = None) -> Manifest:
        """Publish a version (default: the next one) and the configuration of its model.

        `fill` writes the version's files into the folder it is given, and returns what makes the manifest once the
        version number is known.
        """

    @abstractmethod
    def write_configuration(self, spec: Served) -> None:
        """Write the files of a model that no version owns: `config.pbtxt`, its variants, warm-up data."""

    @abstractmethod
    def read_file(self, model: str, name: str) -> bytes | None:
        """A file that no version owns, by its path below the model's folder; None when it is missing."""

    @abstractmethod
    def retire(self, spec: Served, version: int) -> Serving:
        """Take a version away for good; its number is never used again.

        `ReleaseError` when a target serves it or it is the only one, `VersionNotFound` when it is not published.
        """

    def manifest_sha256(self, model: str, version: int) -> str:
        """The SHA-256 of a version's manifest, which stands for the whole version."""
        with self.version_folder(model, version) as folder:
            return str(file_facts(folder / FILE_NAME)["sha256"])

    def expected_files(self, spec: Served) -> dict[str, bytes]:
        """The files that no version owns as they should be: the configuration, and the warm-up data that it names."""
        state = self.serving(spec.name)
        return model_files(state.placing(spec), self._policies(spec.name, state), state.cores)

    def read_configuration(self, spec: Served) -> dict[str, str | None]:
        """The configuration files as they are; None for one that is missing."""
        found = {name: self.read_file(spec.name, name) for name in configuration_files(spec)}
        return {n: None if content is None else content.decode(errors="replace") for n, content in found.items()}

    def precisions(self, model: str) -> dict[int, str]:
        """The precision of every published version; `unreadable` where the manifest is."""
        found = dict.fromkeys(self.versions(model), UNREADABLE)
        for version in found:
            try:
                found[version] = self._precision(model, version)
            except (StoreUnavailable, StoreRefused):
                # Says nothing of the version, and would change what is served.
                raise
            except RepositoryError:
                continue
        return found

    def _precision(self, model: str, version: int) -> str:
        return self.manifest(model, version).precision

    def _unnoted(self, model: str, state: Serving) -> list[Event]:
        """The publications that their writer did not live to note in the history."""
        missed = []
        for version, precision in self.precisions(model).items():
            if version not in state.noted("publish"):
                event = Event(action="publish", version=version, note=precision)
                if precision != UNREADABLE:
                    event = replace(event, at_utc=self.manifest(model, version).created_utc)
                missed.append(event)
        return missed

    def require_published(self, model: str, version: int) -> None:
        """`VersionNotFound` that names what is published, unless this version is."""
        published = self.versions(model)
        if version not in published:
            raise VersionNotFound(
                f"{model}/{version} is not published in {self.location}; it has {published or 'no version'}"
            )

    def missing_steps(self, spec: Served) -> list[str]:
        """The models that an ensemble runs and that have no version here; none for a model of its own."""
        steps = [s.model.name for s in spec.steps] if isinstance(spec, EnsembleSpec) else []
        return [name for name in steps if not self.versions(name)]

    def next_number(self, model: str, state: Serving) -> int:
        """Above every number that is or ever was published."""
        return max([*self.versions(model), *(e.version for e in state.events)], default=0) + 1

    def _refuse_number(self, model: str, version: int | None, state: Serving) -> None:
        following = self.next_number(model, state)
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


def configuration_files(
    spec: Served, policies: Mapping[str, int | None] | None = None, cores: Mapping[str, int] | None = None
) -> dict[str, str]:
    """The text files of a model that git holds, by path below its folder. The plain `config.pbtxt` is the CPU's.

    `policies` holds the version that each target serves; Triton takes the newest where it is None. `cores` holds the
    CPU cores of the targets whose machines are not the specs'.
    """
    chosen, machines = policies or {}, cores or {}
    texts = {
        f"configs/{name}.pbtxt": pbtxt.config_text(
            spec, name, chosen.get(configuration.target), cores=machines.get(configuration.target)
        )
        for name, configuration in pbtxt.CONFIGURATIONS.items()
    }
    return {"config.pbtxt": texts["configs/cpu.pbtxt"], **texts}


def model_files(spec: Served, policies: Mapping[str, int | None], cores: Mapping[str, int]) -> dict[str, bytes]:
    """Everything in a model's folder that no version owns, by path: the configuration and the warm-up data."""
    files = {name: text.encode() for name, text in configuration_files(spec, policies, cores).items()}
    if isinstance(spec, ModelSpec):
        files |= {f"warmup/{name}": array[0].tobytes() for name, array in example(spec).items()}
    return files
