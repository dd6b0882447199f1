"""Versions of one repository in another, byte for byte: from a folder into a bucket, from a stage to the next."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rfserve.export.errors import RepositoryError
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.model_repository import ModelRepository
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
    missing = destination.missing_steps(spec)
    if missing:
        raise RepositoryError(
            f"{spec.name} runs {', '.join(missing)}, of which {destination.location} has no version; copy them first"
        )

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

    following = destination.next_number(spec.name, destination.serving(spec.name))
    return destination.publish(spec, fill, version if version >= following else None), True


def _same(destination: ModelRepository, manifest: Manifest) -> Manifest | None:
    """The newest version there that differs in nothing but its number."""
    alike = [v for v, precision in destination.precisions(manifest.model).items() if precision == manifest.precision]
    found = (destination.manifest(manifest.model, version) for version in reversed(alike))
    return next((m for m in found if replace(m, version=manifest.version) == manifest), None)
