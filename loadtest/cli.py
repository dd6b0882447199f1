"""`rfserve-loadtest`: whether a running server holds its budgets, and what proves it."""

import argparse
import sys
from collections.abc import Sequence

from rfserve.export.spec import RfserveError
from rfserve.loadtest.commands import capacity, check, compare, report, selftest, table, tune, worker

# Neither the exit code of a broken budget nor that of a run that proves nothing.
ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 2 with the reason on stderr when it cannot do what was asked."""
    options = _parser().parse_args(arguments)
    try:
        done: int = options.run(options)
    except RfserveError as error:
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-loadtest", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (check, capacity, tune, worker, report, compare, selftest, table):
        group.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
