"""A verified copy of what one target serves, as a pod makes it on a disk of its own before its server loads anything.

The copy holds, of each model, the version that is served, the one to go back to, and the two newest of those that are
newer and suit the target: a release loads one of them into a server that runs, and a disk must not fill up because
nobody promotes. Each has been compared with its manifest after it was copied. The configuration is made from the specs,
names its version always, and so never picks up another one.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rfserve.export import canary_requests, durable_files
from rfserve.export.errors import RepositoryError, StoreRefused, StoreUnavailable, VersionNotFound
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.model_repository import ModelRepository, model_files
from rfserve.export.serving import Serving
from rfserve.export.spec import EnsembleSpec, find
from rfserve.export.spec.model import Served
from rfserve.export.spec.precision import suits
from rfserve.export.staging import INCOMING_PREFIX, VERSION_NAME

NEWER_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class ServingCopy:
    """Copies of `source` in `folder`, as `target` serves them. Empty `models` copies every model that has a version.

    `pins` names versions to serve instead of those that the repository says, by model: for a canary. `canaries` is a
    folder for the requests that show whether a server answers (`canary_requests`), and of which models it has to.
    """

    source: ModelRepository
    folder: Path
    target: str
    models: Sequence[str] = ()
    pins: Mapping[str, int] = field(default_factory=dict)
    canaries: Path | None = None
    # What was not as published, with the sizes that its files had: others' copies may still be on their way.
    _left_out: dict[tuple[str, int], Mapping[str, int]] = field(init=False, default_factory=dict)

    def update(self, *, anew: bool) -> list[str]:
        """Copy what is missing, and say what was done, a line each.

        `anew` reads again what is there already, and replaces what has changed; without it only what is missing is
        copied. `RepositoryError` when a version that is served is not as it was published: nothing of it stays. One
        that is not served is left out, and said.

        `anew` is also for before the server starts, which has to answer for every model that is there then. A model
        that comes later is copied, and no more: Triton loads all of them only when it starts.
        """
        said: list[str] = []
        specs = [find(model) for model in self._wanted_models()]
        unknown = sorted(set(self.pins) - {s.name for s in specs})
        if unknown:
            raise RepositoryError(f"cannot serve the pinned {', '.join(unknown)}: it is not among the models copied")
        states = {s.name: self.source.serving(s.name) for s in specs}
        for spec in specs:
            said += self._update_model(spec, states[spec.name], anew)
        self._require_steps(specs)
        if self.canaries is not None:
            asked = specs if anew else self._asked_before(self.canaries, specs)
            placed = [states[s.name].placing(s) for s in asked]
            cores = {name: state.cores.get(self.target) for name, state in states.items()}
            canary_requests.write(self.canaries, placed, self.target, cores)
        return said

    @staticmethod
    def _asked_before(canaries: Path, specs: Sequence[Served]) -> list[Served]:
        """Those of `specs` that the server already has to answer for; all where no index says so."""
        index = canaries / canary_requests.INDEX
        try:
            models = json.loads(index.read_text())["models"]
        except FileNotFoundError:
            return list(specs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RepositoryError(
                f"cannot read {index}: got {error!r}; expected what the copy before the server's start left there; "
                "make that copy again (`rfserve-export fetch` without --follow-s), and start the server anew"
            ) from error
        return [s for s in specs if s.name in models]

    def _wanted_models(self) -> list[str]:
        if self.models:
            return list(self.models)
        found = [model for model in self.source.models() if self.source.versions(model)]
        if not found:
            raise RepositoryError(
                f"{self.source.location} holds no model with a version; write one with `rfserve-export write MODEL`"
            )
        return found

    def _update_model(self, spec: Served, state: Serving, anew: bool) -> Iterator[str]:
        home = self.folder / spec.name
        home.mkdir(parents=True, exist_ok=True)
        precisions = self.source.precisions(spec.name)
        served = self._served(spec.name, state, precisions)
        wanted = self._wanted_versions(served, state, precisions)
        for version in wanted:
            present = home / str(version)
            if present.is_dir() and anew and self._problems(spec.name, version, present):
                shutil.rmtree(present)
                yield f"{spec.name}/{version} had changed on this disk; copied again"
            if not present.is_dir():
                yield from self._copied(spec.name, version, present, required=version == served)
        files = model_files(state.placing(spec), dict.fromkeys((self.target,), served), state.cores)
        with durable_files.replaced(files, home):
            pass
        for old in [f for f in home.iterdir() if VERSION_NAME.fullmatch(f.name) and int(f.name) not in wanted]:
            shutil.rmtree(old)
            yield f"{spec.name}/{old.name} is not wanted any more"

    def _served(self, model: str, state: Serving, precisions: Mapping[int, str]) -> int:
        pinned = self.pins.get(model)
        served = pinned if pinned is not None else state.served(self.target, precisions)
        if served is None:
            raise VersionNotFound(f"{model} has no version in {self.source.location}: `rfserve-export write {model}`")
        self.source.require_published(model, served)
        return served

    def _wanted_versions(self, served: int, state: Serving, precisions: Mapping[int, str]) -> list[int]:
        newer = sorted(v for v, p in precisions.items() if v > served and suits(self.target, p))
        wanted = {served, *newer[-NEWER_KEPT:]}
        with suppress(VersionNotFound):
            wanted.add(state.previous(self.target, precisions))
        return sorted(wanted)

    def _copied(self, model: str, version: int, destination: Path, *, required: bool) -> Iterator[str]:
        """Copy, and say so. What nobody serves yet must not keep a pod from serving the rest.

        What was left out is tried again when its files have changed.
        """
        sizes: Mapping[str, int] = {}
        try:
            if not required:
                sizes = self.source.sizes(model, version)
                if self._left_out.get((model, version)) == sizes:
                    return
            self._copy(model, version, destination)
        except (StoreUnavailable, StoreRefused):
            raise
        except RepositoryError as error:
            if required:
                raise
            self._left_out[model, version] = sizes
            yield f"left out: {error}"
        else:
            yield f"{model}/{version} copied and verified"

    def _copy(self, model: str, version: int, destination: Path) -> None:
        coming = destination.with_name(f"{INCOMING_PREFIX}{version}")
        shutil.rmtree(coming, ignore_errors=True)
        try:
            with self.source.version_folder(model, version) as original:
                shutil.copytree(original, coming)
            problems = self._problems(model, version, coming)
            if problems:
                raise RepositoryError(
                    f"{model}/{version} in {self.source.location} is not as it was published: {'; '.join(problems)}; "
                    "publish a version anew, and promote it"
                )
            coming.rename(destination)
        except OSError as error:
            raise RepositoryError(f"cannot copy {model}/{version} to {destination}: {error}") from error
        finally:
            shutil.rmtree(coming, ignore_errors=True)

    @staticmethod
    def _problems(model: str, version: int, folder: Path) -> list[str]:
        file = folder / FILE_NAME
        if not file.is_file():
            return [f"it has no {FILE_NAME}: rfserve did not publish it"]
        try:
            manifest = Manifest.from_json(file.read_text(errors="replace"), f"{model}/{version}")
        except RepositoryError as error:
            return [str(error)]
        found = manifest.differences(folder)
        if (manifest.model, manifest.version) != (model, version):
            found.append(f"its manifest is of {manifest.model}/{manifest.version}")
        return found

    @staticmethod
    def _require_steps(specs: Sequence[Served]) -> None:
        names = {s.name for s in specs}
        for spec in specs:
            steps = {s.model.name for s in spec.steps} if isinstance(spec, EnsembleSpec) else set()
            if steps - names:
                raise RepositoryError(f"{spec.name} runs {', '.join(sorted(steps - names))}, of which there is no copy")
