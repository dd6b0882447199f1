"""The alias of a model, which is what `serving.json` has each target serve: where it may go, and how it moves."""

from collections.abc import Mapping, Sequence

from rfserve.export import verification
from rfserve.export.errors import ReleaseError, VersionNotFound
from rfserve.export.model_repository import ModelRepository
from rfserve.export.serving import Event, Serving
from rfserve.export.spec.model import TARGETS, Served
from rfserve.export.spec.precision import BY_TARGET, suits


def suited(
    repository: ModelRepository, spec: Served, version: int, targets: Sequence[str] | None, *, force: bool
) -> tuple[str, ...]:
    """The targets to serve a published version: those asked for, else all that its precision suits.

    `ReleaseError` when it does not suit one of them, or none, unless `force`.
    """
    precision = repository.precisions(spec.name)[version]
    unknown = sorted(set(targets or ()) - set(TARGETS))
    if unknown:
        raise ReleaseError(f"got targets {unknown}; expected some of {', '.join(TARGETS)}")
    chosen = tuple(t for t in TARGETS if (t in targets if targets else suits(t, precision)))
    unsuited = [t for t in chosen if not suits(t, precision)]
    if (unsuited or not chosen) and not force:
        meant = "; ".join(f"{t} serves {' or '.join(BY_TARGET[t])}" for t in unsuited or TARGETS)
        raise ReleaseError(f"{spec.name}/{version} is {precision}, but {meant}: promote another one, or force it")
    return chosen or TARGETS


def verify(repository: ModelRepository, spec: Served, versions: set[int]) -> None:
    """See that versions are published and whole; `VersionNotFound`, or `ReleaseError` with all that is wrong."""
    for version in sorted(versions):
        repository.require_published(spec.name, version)
        problems = verification.version_problems(repository, spec, version)
        if problems:
            raise ReleaseError(
                f"{spec.name}/{version} is not fit to be served: {'; '.join(problems)}; nothing was changed"
            )


def previous(
    repository: ModelRepository, spec: Served, state: Serving, targets: Sequence[str] | None
) -> dict[str, int]:
    """The version that each target served before, for `targets` or those that the latest change concerned.

    `VersionNotFound` when there is none.
    """
    precisions = repository.precisions(spec.name)
    if not precisions:
        raise VersionNotFound(
            f"{spec.name} has no version in {repository.location}: `rfserve-export write {spec.name}`"
        )
    try:
        return {t: state.previous(t, precisions) for t in targets or state.last_changed()}
    except VersionNotFound as error:
        raise VersionNotFound(f"{spec.name} cannot be rolled back: {error}") from error


def moved(state: Serving, action: str, versions: Mapping[str, int]) -> Serving:
    """With the alias of each target at its version, and an event for each of the versions."""
    for version in sorted(set(versions.values())):
        there = tuple(t for t, v in versions.items() if v == version)
        state = state.with_event(Event(action=action, version=version, targets=there))
    return state
