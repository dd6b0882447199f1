"""`rfserve-export observability`: rules, alerts, dashboard and scraping, made of the budgets of the specs."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.export.errors import ExportError
from rfserve.export.observability.files import LOCAL_TARGET, files
from rfserve.export.observability.timing import Timing


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    command = commands.add_parser(
        "observability", help="Prometheus rules and alerts, Grafana dashboard, collector, and what scrapes the pods"
    )
    command.add_argument(
        "--write", type=Path, metavar="FOLDER", required=True, help="below it, as below this project's `deploy`"
    )
    command.add_argument(
        "--hasten",
        type=float,
        default=1.0,
        metavar="N",
        help="for rehearsals: divide every time of the alerts by N (60: an hour is a minute)",
    )
    command.add_argument(
        "--target",
        action="append",
        metavar="HOST:PORT",
        help=f"metrics of a server for the Prometheus of one host (again for more; default: {LOCAL_TARGET})",
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    made = files(Timing(hasten=options.hasten), options.target or (LOCAL_TARGET,))
    for path, text in made.items():
        file: Path = options.write / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError as error:
            raise ExportError(f"{file}: {error}") from error
        print(file)
    return 0
