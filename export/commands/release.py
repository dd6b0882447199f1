"""`rfserve-export promote`, `rollback`, `retire`, `history` and `diff`: which version is served, and why."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rfserve.export import comparison, release
from rfserve.export.commands import registry_option, repository_option, server_options
from rfserve.export.errors import ExportError, RegistryError, ReleaseError
from rfserve.export.live import LiveServer
from rfserve.export.model_repository import ModelRepository
from rfserve.export.registry import Registry
from rfserve.export.release import Release
from rfserve.export.spec import find
from rfserve.export.spec.model import TARGETS

NEWEST = "newest"


def add_to(commands: Any) -> None:
    """Add the commands to the sub-parsers of `rfserve-export`."""
    promote = commands.add_parser("promote", help="serve a version, also on running servers, or leave all as it was")
    promote.add_argument("model", metavar="MODEL")
    promote.add_argument("version", type=_version, metavar="VERSION", help=f"a number, or {NEWEST}")
    promote.add_argument("--force", action="store_true", help="also for a target that the precision does not suit")
    promote.set_defaults(run=_promote)

    rollback = commands.add_parser("rollback", help="serve what was served before the latest change")
    rollback.add_argument("model", metavar="MODEL")
    rollback.set_defaults(run=_rollback)

    for command, default in (
        (promote, "every one that the precision suits"),
        (rollback, "those of the latest change"),
    ):
        command.add_argument("--target", action="append", choices=TARGETS, help=f"repeatable (default: {default})")
        command.add_argument(
            "--url", action="append", default=[], metavar="HOST:PORT", help="gRPC of a running server; repeatable"
        )
        server_options.add_to(command)
        command.add_argument(
            "--champion", action="store_true", help="then move MLflow's alias champion there; needs --url"
        )
        registry_option.add_to(command)
        command.add_argument("--timeout-s", type=float, default=30.0, help="of each call (default: %(default)s)")

    retire = commands.add_parser("retire", help="delete a version that no target serves; its number stays used")
    retire.add_argument("model", metavar="MODEL")
    retire.add_argument("version", type=int, metavar="VERSION")
    retire.set_defaults(run=_retire)

    history = commands.add_parser("history", help="what was published, promoted, rolled back and retired, and when")
    history.add_argument("model", metavar="MODEL")
    history.set_defaults(run=_history)

    diff = commands.add_parser("diff", help="two versions on the same inputs, in metres and per cent of sigma")
    diff.add_argument("model", metavar="MODEL")
    diff.add_argument("before", type=int, metavar="A")
    diff.add_argument("after", type=int, metavar="B")
    given = diff.add_mutually_exclusive_group()
    given.add_argument("--inputs", type=Path, metavar="FILE.npz", help="the model's own input tensors, batch first")
    given.add_argument(
        "--recordings",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="SigMF; each collection is an event, other recordings are one together",
    )
    diff.set_defaults(run=_diff)

    for command in (promote, rollback, retire, history, diff):
        repository_option.add_to(command)


def _version(text: str) -> int | None:
    """The number; None for the newest."""
    if text == NEWEST:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a version's number, or {NEWEST}") from error


def _promote(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    version = options.version
    if version is None:
        version = max(repository.versions(find(options.model).name), default=1)
    registry = _registry(options)
    if registry is not None:
        # Better to find out now than when the version is served.
        registry.registered(options.model, version, repository=repository)
    servers = _servers(options)
    try:
        done = release.promote(repository, find(options.model), version, options.target, servers, force=options.force)
    finally:
        _close(servers)
    _print(done)
    _crown(registry, repository, done)
    return 0


def _rollback(options: argparse.Namespace) -> int:
    registry = _registry(options)
    servers = _servers(options)
    try:
        done = release.rollback(options.repository, find(options.model), options.target, servers)
    finally:
        _close(servers)
    _print(done)
    _crown(registry, options.repository, done)
    return 0


def _registry(options: argparse.Namespace) -> Registry | None:
    if not options.champion:
        return None
    if not options.url:
        raise ReleaseError("got --champion without --url; the champion is what passed its checks on a serving Triton")
    return Registry.from_options(options)


def _crown(registry: Registry | None, repository: ModelRepository, done: Release) -> None:
    """Move the alias to what is served now; one alias cannot stand for two versions."""
    if registry is None:
        return
    versions = sorted(set(done.versions.values()))
    try:
        if len(versions) > 1:
            raise RegistryError(f"versions {versions} are served, by target; name one --target")
        print(f"champion: {registry.champion(done.model, versions[0], repository=repository).uri}")
    except RegistryError as error:
        raise RegistryError(
            f"{done.model} serves version {versions[0]} as asked, but the champion did not move: {error}"
        ) from error


def _servers(options: argparse.Namespace) -> list[LiveServer]:
    key, encryption = server_options.key_of(options), server_options.encryption_of(options)
    return [LiveServer(url, options.timeout_s, key, encryption) for url in dict.fromkeys(options.url)]


def _close(servers: list[LiveServer]) -> None:
    for server in servers:
        server.close()


def _print(done: Release) -> None:
    for target, version in done.versions.items():
        print(f"{done.model}: {target} serves version {version}")
    for url, seconds in done.servers_s.items():
        print(f"{url}: loaded and checked in {seconds:.1f} s", file=sys.stderr)
    if not done.servers_s:
        print("no --url: a running server serves it once it loads the model again", file=sys.stderr)
    print(f"{done.action} took {done.total_s:.1f} s, of which {done.verified_s:.1f} s to verify", file=sys.stderr)


def _retire(options: argparse.Namespace) -> int:
    release.retire(options.repository, find(options.model), options.version)
    print(f"{options.model}/{options.version} is retired; its number is not used again")
    return 0


def _history(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    name = find(options.model).name
    events = repository.serving(name).events
    if not events:
        raise ExportError(f"{repository.location} holds no history of {name}; write a version of it")
    published = repository.versions(name)
    precisions = {e.version: e.note for e in events if e.action == "publish"}
    for event in events:
        left = "published" if event.version in published else "gone"
        targets = ",".join(event.targets) or "-"
        print(
            f"{event.at_utc}  {event.action:8}  {event.version:>4}  {targets:7}  "
            f"{precisions.get(event.version) or '-':10}  {left}"
        )
    return 0


def _diff(options: argparse.Namespace) -> int:
    compared = comparison.compare(
        options.repository,
        find(options.model),
        options.before,
        options.after,
        inputs=options.inputs,
        recordings=options.recordings or (),
    )
    print(compared.text())
    return 0
