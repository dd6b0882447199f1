"""`rfserve-export fetch`: a verified copy of what a target serves. Also a program of its own, without torch."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfserve.export.commands import repository_option
from rfserve.export.serving_copy import ServingCopy
from rfserve.export.spec import RfserveError, find
from rfserve.export.spec.model import TARGETS

# As a shell has it; not 0, because a copy that was interrupted is not whole.
TOLD_TO_END = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m rfserve.export.commands.fetch`: 0 when the copy is whole and verified, 1 with the reason if not."""
    parser = argparse.ArgumentParser(prog="fetch", description=__doc__)
    _add_options(parser)
    try:
        return _fetch(parser.parse_args(arguments))
    except RfserveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    command = commands.add_parser("fetch", help="copy what a target serves to a local folder, verified")
    _add_options(command)
    command.set_defaults(run=_fetch)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="where the copy goes")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="whose versions (default: %(default)s)")
    parser.add_argument("--model", action="append", default=[], help="copy only this one (again for more)")
    parser.add_argument(
        "--serve",
        type=_pin,
        action="append",
        default=[],
        metavar="MODEL=VERSION",
        help="serve this version, whatever is promoted: for a canary",
    )
    parser.add_argument("--canaries", type=Path, metavar="FOLDER", help="write requests for a server's probes there")
    parser.add_argument(
        "--follow-s",
        type=float,
        metavar="S",
        help="look for newer versions so often, and never end: a repository that is away is said, and no error",
    )
    repository_option.add_to(parser)


def _pin(text: str) -> tuple[str, int]:
    model, _, version = text.partition("=")
    try:
        return find(model).name, int(version)
    except (ValueError, RfserveError) as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected MODEL=VERSION ({error})") from error


def _fetch(options: argparse.Namespace) -> int:
    copy = ServingCopy(
        source=options.repository,
        folder=options.folder,
        target=options.target,
        models=options.model,
        pins=dict(options.serve),
        canaries=options.canaries,
    )
    if options.follow_s is None:
        _say(copy.update(anew=True))
        return 0
    while True:
        time.sleep(options.follow_s)
        try:
            _say(copy.update(anew=False))
        except RfserveError as error:
            # The server has what it serves; only a release waits for this.
            print(f"cannot follow: {error}", file=sys.stderr, flush=True)


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    # The first process of a container has no default for it: it would go on until it is killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TOLD_TO_END))
    sys.exit(main())
