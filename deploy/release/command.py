"""`rfserve-server release`: a version on every pod, checked on each, then the alias; or everything as it was."""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rfserve.export import comparison
from rfserve.export.commands import registry_option, repository_option, server_options
from rfserve.export.errors import RegistryError
from rfserve.export.registry import Registry
from rfserve.export.spec import RfserveError, find
from rfserve.export.spec.model import TARGETS
from rfserve.release.cluster import ACCOUNT, ClusterApi
from rfserve.release.endpoint_slices import ServicePods
from rfserve.release.errors import DONE, EXIT_CODES, NotEverywhere, NotReleased
from rfserve.release.pod_server import Access
from rfserve.release.pods import Fleet, NamedPods
from rfserve.release.rollout import Rollout
from rfserve.release.steps import Shadow


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code, with the reason on stderr when it is not 0."""
    options = _parsed(arguments)
    with _going_back_when_told_to_end():
        return _main(options)


def _main(options: argparse.Namespace) -> int:
    begun = time.monotonic()
    rollout: Rollout | None = None
    versions: dict[str, int] = {}
    code, reason = DONE, ""
    try:
        rollout = Rollout(options.repository, find(options.model), _fleet(options), _access(options), report=_report)
        versions = _run(rollout, options)
    except (NotReleased, NotEverywhere) as error:
        code, reason = error.exit_code, str(error)
    except (RfserveError, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted"
        if rollout is not None and rollout.alias_moved:
            code, reason = NotEverywhere.exit_code, f"{reason}; the alias moved, run the same again"
        else:
            code, reason = NotReleased.exit_code, f"{reason}; nothing was changed"
    if reason:
        print(f"error: {reason}", file=sys.stderr)
    document = {
        "action": _action(options),
        "model": options.model,
        "version": options.version,
        "versions": versions,
        "exit_code": code,
        "reason": reason or None,
        "alias_moved": rollout is not None and rollout.alias_moved,
        "seconds": round(time.monotonic() - begun, 3),
        "pods": [] if rollout is None else [p.document() for p in rollout.pods.values()],
    }
    _print(document, rollout, options.output)
    return code


@contextmanager
def _going_back_when_told_to_end() -> Iterator[None]:
    """SIGTERM and Ctrl-C interrupt the release once: a second one is not to stop what brings everything back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(rollout: Rollout, options: argparse.Namespace) -> dict[str, int]:
    registry = Registry.from_options(options) if options.champion else None
    if registry is not None and options.version is not None:
        # Better to find out now than when the version is served.
        registry.registered(options.model, options.version, repository=rollout.repository)
    versions = _rolled_out(rollout, options)
    if registry is not None:
        try:
            if len(set(versions.values())) > 1:
                raise RegistryError("one alias cannot stand for several versions; name one --target")
            registry.champion(options.model, next(iter(versions.values())), repository=rollout.repository)
        except RegistryError as error:
            raise NotEverywhere(
                f"{options.model} serves {versions} as asked, but the champion did not move: {error}"
            ) from error
    return versions


def _rolled_out(rollout: Rollout, options: argparse.Namespace) -> dict[str, int]:
    if options.rollback:
        return rollout.rollback(options.target)
    shadow = None
    if options.shadow or options.inputs or options.recordings or options.shift_limit_m is not None:
        network = comparison.network_of(rollout.spec)
        given = comparison.inputs_of(
            rollout.repository,
            network,
            options.version,
            inputs=options.inputs,
            recordings=options.recordings or (),
        )
        shadow = Shadow(inputs=given, limit_m=options.shift_limit_m)
    if options.shadow:
        rollout.rehearse(options.version, shadow)
        return {}
    return rollout.release(
        options.version, options.target, force=options.force, rehearse=options.rehearsal, shadow=shadow
    )


def _action(options: argparse.Namespace) -> str:
    return "rollback" if options.rollback else "shadow" if options.shadow else "release"


def _print(document: dict[str, Any], rollout: Rollout | None, output: str) -> None:
    if output == "json":
        print(json.dumps(document, indent=1))
        return
    for progress in () if rollout is None or document["action"] != "shadow" else rollout.pods.values():
        if progress.comparison is not None:
            print(f"{progress.pod}\n{progress.comparison.text()}\n")
    for target, version in document["versions"].items():
        print(f"{document['model']}: {target} serves version {version}")
    print(f"{document['action']} of {len(document['pods'])} pods took {document['seconds']:.1f} s", file=sys.stderr)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fleet(options: argparse.Namespace) -> Fleet:
    if options.pods is not None:
        return NamedPods([p.strip() for p in options.pods.split(",") if p.strip()])
    if options.api_server is None:
        api = ClusterApi.of_pod(folder=options.service_account, namespace=options.namespace)
    else:
        api = ClusterApi(
            url=options.api_server,
            namespace=options.namespace or "default",
            token=options.service_account / "token",
            authority=options.service_account / "ca.crt",
        )
    return ServicePods(api, options.service, options.port)


def _access(options: argparse.Namespace) -> Access:
    return Access(
        timeout_s=options.pod_timeout_s,
        admin_key=server_options.key_of(options),
        encryption=server_options.encryption_of(options, options.server_name),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rfserve-server release",
        description=__doc__,
        epilog="exit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in EXIT_CODES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "version", type=int, nargs="?", metavar="VERSION", help="without it: what the alias says, on every pod"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rollback", action="store_true", help="every pod back to what was served before, alias first")
    what.add_argument("--shadow", action="store_true", help="only rehearse, and list how far each fix would move")
    repository_option.add_to(parser)
    parser.add_argument("--target", action="append", choices=TARGETS, help="repeatable (default: those it suits)")
    parser.add_argument("--force", action="store_true", help="also for a target that the precision does not suit")
    parser.add_argument("--champion", action="store_true", help="then move MLflow's alias champion there")
    registry_option.add_to(parser)
    parser.add_argument("--output", choices=("text", "json"), default="text", help="of stdout (default: %(default)s)")
    _add_pods(parser)
    _add_checks(parser)
    return parser


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rollback and options.version is not None:
        parser.error("--rollback finds the version itself; release VERSION to choose one")
    if options.shadow and options.version is None:
        parser.error("--shadow needs the VERSION to rehearse")
    if options.shadow and options.champion:
        parser.error("--shadow releases nothing that could be the champion")
    return options


def _add_pods(parser: argparse.ArgumentParser) -> None:
    pods = parser.add_argument_group("pods", "as they are named, or as the EndpointSlices of a Service have them")
    where = pods.add_mutually_exclusive_group(required=True)
    where.add_argument("--pods", metavar="HOST:PORT,…", help="gRPC of each pod")
    where.add_argument("--service", metavar="NAME", help="the Service; needs the right to list endpointslices")
    pods.add_argument("--port", default="grpc", help="name or number in its slices (default: %(default)s)")
    pods.add_argument("--namespace", help="default: the pod's own")
    pods.add_argument("--api-server", metavar="URL", help="default: as the kubelet tells a pod")
    pods.add_argument(
        "--service-account",
        type=Path,
        default=ACCOUNT,
        metavar="FOLDER",
        help="its token and ca.crt (%(default)s)",
    )
    pods.add_argument(
        "--pod-timeout-s", type=float, default=120.0, help="of each step on each pod (default: %(default)s)"
    )
    server_options.add_to(pods)
    pods.add_argument("--server-name", metavar="NAME", help="in the certificate of pods, which are called by address")


def _add_checks(parser: argparse.ArgumentParser) -> None:
    checks = parser.add_argument_group("rehearsal", "the version on each pod where no client meets it")
    checks.add_argument(
        "--no-rehearsal", dest="rehearsal", action="store_false", help="load at once, without sending the version"
    )
    given = checks.add_mutually_exclusive_group()
    given.add_argument("--inputs", type=Path, metavar="FILE.npz", help="requests for the shadow comparison")
    given.add_argument("--recordings", type=Path, nargs="+", metavar="PATH", help="the same, from SigMF recordings")
    checks.add_argument(
        "--shift-limit-m", type=float, metavar="METRES", help="refuse a version that moves a fix of these farther"
    )
