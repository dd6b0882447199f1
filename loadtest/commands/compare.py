"""`rfserve-loadtest compare`: what changed from one kept run to another beyond noise."""

import argparse
import json
from pathlib import Path
from typing import Any

from rfserve.loadtest import comparison_text
from rfserve.loadtest.comparison import MARGIN, compare
from rfserve.loadtest.measurement import Run

JSON = "json"


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    command = commands.add_parser(
        "compare",
        help="what changed between two kept runs beyond noise; ends with 1 when something got worse",
    )
    command.add_argument("before", type=Path, metavar="A.json")
    command.add_argument("after", type=Path, metavar="B.json")
    command.add_argument(
        "--format", choices=(*comparison_text.FORMATS, JSON), default="text", help="default: %(default)s"
    )
    command.add_argument(
        "--margin-percent",
        type=float,
        default=100 * MARGIN,
        metavar="N",
        help="a change known to be smaller is none (default: %(default)g)",
    )
    command.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    before, after = Run.read(options.before), Run.read(options.after)
    found = compare(before, after, margin=options.margin_percent / 100)
    if options.format == JSON:
        print(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        print(comparison_text.FORMATS[options.format](found), end="")
    return 1 if found.is_worse else 0
