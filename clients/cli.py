"""`rfserve-client`: recordings to a fix, raw tensors to outputs, and synthetic events to try and to judge them with."""

import argparse
import sys
from collections.abc import Sequence

from rfserve.clients.commands import batch, infer, locate, study, synthesize, tensors, watch
from rfserve.export.spec import RfserveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with the reason on stderr when not."""
    options = _parser().parse_args(arguments)
    try:
        done: int = options.run(options)
    except RfserveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-client", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (locate, batch, watch, infer, tensors, synthesize, study):
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
