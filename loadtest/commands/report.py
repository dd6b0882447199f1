"""`rfserve-loadtest report`: the reports of a run that was kept."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.loadtest import report_html, report_junit, verdict
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Run


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    report = commands.add_parser("report", help="make the reports of a kept run again")
    report.add_argument("run_file", type=Path, metavar="RUN.json")
    add_options(report)
    report.set_defaults(run=_report)


def add_options(command: argparse.ArgumentParser) -> None:
    """Where the reports go."""
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page with every chart there")
    command.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML there")


def write(options: argparse.Namespace, run: Run, verdicts: tuple[verdict.Verdict, ...]) -> None:
    """The reports that the options ask for."""
    if options.html is not None:
        report_html.write(run, verdicts, options.html)
    if options.junit is not None:
        report_junit.write(run, verdicts, options.junit)


def _report(options: argparse.Namespace) -> int:
    if options.html is None and options.junit is None:
        raise LoadTestError("got nothing to write; give --html FILE or --junit FILE")
    run = Run.read(options.run_file)
    write(options, run, verdict.judge(run))
    return 0
