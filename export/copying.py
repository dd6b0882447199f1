"""Versions of one repository in another, byte for byte: from a folder into a bucket, from a stage to the next."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from rfserve.export.errors import RepositoryError, StoreRefused, StoreUnavailable
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import EnsembleSpec
from rfserve.export.spec.model import TARGETS, Served


def served_versions(repository: ModelRepository, model: str) -> list[int]:
    """The versions that a target of the repository serves, ascending; empty for a model without any."""
    precisions, state = repository.precisions(model), repository.serving(model)
    found = {state.served(target, precisions) for target in TARGETS}
    return sorted(v for v in found if v is not None)


def copy_version(
    source: ModelRepository, destination: ModelRepository, spec: Served, version: int
) -> tuple[Manifest, bool]:
    """Publish a version of `source` in `destination`, and whether that was necessary: it may be there already.

    Its files are compared with its manifest first, and only its number may change: it keeps it where no version of the
    destination has that number or a higher one, or had. `RepositoryError` when it is not as it was published,
    `VersionNotFound` when it is not there, or what `destination.publish` raises; nothing is published then.
    """
    source.require_published(spec.name, version)
    manifest = source.manifest(spec.name, version)
    there = _same(destination, manifest)
    if there is not None:
        return there, False
    _require_steps(destination, spec)

    def fill(folder: Path) -> Callable[[int], Manifest]:
        with source.version_folder(spec.name, version) as original:
            shutil.copytree(original, folder, ignore=shutil.ignore_patterns(FILE_NAME), dirs_exist_ok=True)
        problems = manifest.differences(folder)
        if problems:
            raise RepositoryError(
                f"{spec.name}/{version} in {source.location} is not as it was published: {'; '.join(problems)}; "
                "nothing was copied"
            )
        return lambda number: replace(manifest, version=number)

    used = [*destination.versions(spec.name), *(e.version for e in destination.serving(spec.name).events)]
    number = version if version > max(used, default=0) else None
    return destination.publish(spec, fill, number), True


def _same(destination: ModelRepository, manifest: Manifest) -> Manifest | None:
    """The newest version there that differs in nothing but its number."""
    for found in _readable(destination, manifest.model):
        if replace(found, version=manifest.version) == manifest:
            return found
    return None


def _readable(repository: ModelRepository, model: str) -> Iterator[Manifest]:
    for version in reversed(repository.versions(model)):
        try:
            yield repository.manifest(model, version)
        except (StoreUnavailable, StoreRefused):
            raise
        except RepositoryError:
            # Damaged, and so not the same.
            continue


def _require_steps(destination: ModelRepository, spec: Served) -> None:
    steps: Iterable[str] = (s.model.name for s in spec.steps) if isinstance(spec, EnsembleSpec) else ()
    missing = [name for name in steps if not destination.versions(name)]
    if missing:
        raise RepositoryError(
            f"{spec.name} runs {', '.join(missing)}, of which {destination.location} has no version; copy them first"
        )
