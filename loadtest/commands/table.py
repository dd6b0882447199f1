"""`rfserve-loadtest table`: the README's table of what each model costs, from the kept results of `make bench`."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.loadtest import performance
from rfserve.loadtest.errors import LoadTestError

RESULTS = Path(__file__).parents[1] / "results"


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    table = commands.add_parser("table", help="the README's performance table, from the kept results of `make bench`")
    table.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: %(default)s")
    table.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    table.set_defaults(run=_table)


def _table(options: argparse.Namespace) -> int:
    results = performance.results_in(options.results)
    if options.write is None:
        print("\n".join(performance.table(r) for r in results), end="")
        return 0
    try:
        written = performance.between_markers(options.write.read_text(), results)
        options.write.write_text(written)
    except OSError as error:
        raise LoadTestError(f"{options.write}: {error}") from error
    return 0
