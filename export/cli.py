"""`rfserve-export`: write, copy, check, place, register, promote, compare and convert the versions of a model
repository, and what else is made of the specs.
"""

import argparse
import sys
from collections.abc import Sequence

from rfserve.export.commands import (
    copy,
    edge,
    evaluate,
    fetch,
    inspect,
    observability,
    place,
    pool,
    register,
    release,
    train,
    write,
)
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
    parser = argparse.ArgumentParser(prog="rfserve-export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (write, copy, train, evaluate, pool, register, release, inspect, fetch, place, edge, observability):
        group.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
