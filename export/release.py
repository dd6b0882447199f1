"""Promote, roll back and retire versions: in the repository, and on the servers that run from it."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rfserve.export import alias, live
from rfserve.export.errors import ExportError, ReleaseError
from rfserve.export.live import LiveServer
from rfserve.export.live_check import checked_on
from rfserve.export.model_repository import ModelRepository
from rfserve.export.serving import Event, Serving
from rfserve.export.spec.model import Served

__all__ = ["Release", "checked_on", "promote", "retire", "rollback"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What was done: the version that each target serves now, and how long each part took.

    `servers_s` has the seconds from the order to load until the checked answer, by the server's address.
    """

    action: str
    model: str
    versions: Mapping[str, int]
    verified_s: float
    total_s: float
    servers_s: Mapping[str, float] = field(default_factory=dict)


def promote(
    repository: ModelRepository,
    spec: Served,
    version: int,
    targets: Sequence[str] | None = None,
    servers: Sequence[LiveServer] = (),
    *,
    force: bool = False,
) -> Release:
    """Have `targets` (default: every one that the version's precision suits) serve a version.

    The version is verified first, then written into the configuration, then loaded by one server after another; each
    has to answer as ONNX Runtime does here. When one does not, or the configuration cannot be written to its end, the
    configuration and every server go back to what they served before. `ReleaseError` with the reason then, and with
    what could not go back; also when the version is damaged or, without `force`, of a precision that does not suit a
    target. `VersionNotFound` when it is not published, `RepositoryError` when nothing could be written.
    """
    begun = time.monotonic()
    alias.verify(repository, spec, {version})
    chosen = alias.suited(repository, spec, version, targets, force=force)
    places = _places(spec, servers, dict.fromkeys(chosen, version))
    verified_s = time.monotonic() - begun
    event = Event(action="promote", version=version, targets=chosen)
    seen: list[Serving] = []

    def change(state: Serving) -> Serving:
        seen.append(state)
        return state.with_event(event)

    touched: list[LiveServer] = []
    taken_s = {}
    try:
        repository.change_serving(spec, change)
        for server in places:
            touched.append(server)
            taken_s[server.url] = _switch(server, repository, spec, version)
    except (ExportError, KeyboardInterrupt) as error:
        if not seen or not (touched or _may_be_recorded(repository, spec, event)):
            raise
        reason = str(error) or "interrupted"
        raise ReleaseError(_gone_back(repository, spec, event, seen[-1], touched, reason=reason)) from error
    return Release(
        action="promote",
        model=spec.name,
        versions=dict.fromkeys(chosen, version),
        verified_s=verified_s,
        total_s=time.monotonic() - begun,
        servers_s=taken_s,
    )


def rollback(
    repository: ModelRepository, spec: Served, targets: Sequence[str] | None = None, servers: Sequence[LiveServer] = ()
) -> Release:
    """Have `targets` (default: those that the latest change concerned) serve what they served before it.

    The versions are verified first. Then the configuration is changed, and all servers load at once. A server that
    fails does not bring the others back to what they were taken off: `ReleaseError` names it at the end.
    `VersionNotFound` when there is nothing to go back to.
    """
    begun = time.monotonic()
    versions = alias.previous(repository, spec, repository.serving(spec.name), targets)
    alias.verify(repository, spec, set(versions.values()))
    places = _places(spec, servers, versions)
    verified_s = time.monotonic() - begun

    def change(state: Serving) -> Serving:
        if alias.previous(repository, spec, state, targets) != versions:
            raise ReleaseError(f"{spec.name}: what is served changed meanwhile; look at its history, and try again")
        return alias.moved(state, "rollback", versions)

    repository.change_serving(spec, change)
    taken_s, failed = {}, []
    with ThreadPoolExecutor(max_workers=max(len(places), 1)) as pool:
        switches = {s: pool.submit(_switch, s, repository, spec, version) for s, version in places.items()}
        for server, switch in switches.items():
            try:
                taken_s[server.url] = switch.result()
            except ExportError as error:
                failed.append(str(error))
    if failed:
        raise ReleaseError(
            f"{spec.name} is rolled back to {_said(versions)} in {repository.location}, but not on "
            f"{len(failed)} of {len(places)} servers: {'; '.join(failed)}; mend or restart those"
        )
    return Release(
        action="rollback",
        model=spec.name,
        versions=versions,
        verified_s=verified_s,
        total_s=time.monotonic() - begun,
        servers_s=taken_s,
    )


def retire(repository: ModelRepository, spec: Served, version: int) -> None:
    """Take a version away for good; see `ModelRepository.retire` for what is refused."""
    repository.retire(spec, version)


def _places(spec: Served, servers: Sequence[LiveServer], versions: Mapping[str, int]) -> dict[LiveServer, int]:
    """The version that each server shall have, by the target it runs."""
    found = {}
    for server in servers:
        target = server.target(spec.name)
        if target is not None and target not in versions:
            raise ReleaseError(
                f"{server.url} serves the {target} configuration of {spec.name}, and this is for "
                f"{' and '.join(versions)}; nothing was changed: give --target {target}, or leave it out of --url"
            )
        found[server] = versions[target or next(iter(versions))]
    return found


def _switch(server: LiveServer, repository: ModelRepository, spec: Served, version: int) -> float:
    """Have a server load what the configuration says, and see that it does; the seconds it took."""
    begun = time.monotonic()
    with live.dependents_kept(server, spec):
        server.load(spec.name)
        server.wait_until_ready(spec.name, version)
        checked_on(server, repository, spec, version)
    return time.monotonic() - begun


def _may_be_recorded(repository: ModelRepository, spec: Served, event: Event) -> bool:
    """Whether a change that failed is in the history all the same: an object store may fail after it, or lose answers.

    Where the history cannot be read, it may be.
    """
    try:
        return event in repository.serving(spec.name).events
    except ExportError:
        return True


def _gone_back(
    repository: ModelRepository,
    spec: Served,
    event: Event,
    before: Serving,
    servers: Sequence[LiveServer],
    *,
    reason: str,
) -> str:
    """Undo a promotion that failed for a reason; what to say of it, with what could not be undone."""
    promotion = f"{spec.name}/{event.version}"
    refused = f"{promotion} was not promoted: {reason}; what was served before is"
    try:
        now = repository.change_serving(spec, lambda state: state.undone(event, before))
    except ExportError as error:
        untold = "".join(f"; {server.url} may serve version {event.version} until it loads again" for server in servers)
        if not _may_be_recorded(repository, spec, event):
            return f"{refused} recorded, but going back failed: {error}{untold}"
        return (
            f"the promotion of {promotion} failed: {reason}; and it may stand in {repository.location}, where it could "
            f"not be taken back: {error}; mend that, and where `rfserve-export history {spec.name}` ends with it then, "
            f"`rfserve-export rollback {spec.name}` takes it back{untold}"
        )
    return "; but ".join([f"{refused} served again", *_reloaded(repository, spec, event, now, servers)])


def _reloaded(
    repository: ModelRepository, spec: Served, event: Event, now: Serving, servers: Sequence[LiveServer]
) -> list[str]:
    """Have servers load what the configuration says again; what went wrong."""
    problems = []
    for server in servers:
        try:
            with live.dependents_kept(server, spec):
                server.load(spec.name)
                target = server.target(spec.name) or event.targets[0]
                version = now.served(target, repository.precisions(spec.name))
                if version is not None:
                    server.wait_until_ready(spec.name, version)
        except ExportError as error:
            problems.append(str(error))
    return problems


def _said(versions: Mapping[str, int]) -> str:
    return ", ".join(f"version {version} for {target}" for target, version in versions.items())
