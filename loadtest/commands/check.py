"""`rfserve-loadtest check`: run a plan and say whether its budgets hold."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfserve.loadtest import plan as plans
from rfserve.loadtest import table, verdict
from rfserve.loadtest.commands import report, server_options
from rfserve.loadtest.commands.progress import tell
from rfserve.loadtest.engine import LOOPBACK, MASTER_PORT, WAIT_S, Engine
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.plan import Plan


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    check = commands.add_parser(
        "check",
        help="run a plan: exit code 0 when its budgets hold, 1 when one is broken, 3 when the run proves neither",
    )
    bundled = ", ".join(sorted(f.stem for f in plans.BUNDLED.glob("*.toml")))
    check.add_argument("plan", metavar="PLAN", help=f"a TOML file, or one of {bundled}")
    check.add_argument("--models", nargs="+", metavar="MODEL", help="only the phases of these alone")
    check.add_argument("--device", help="whose budgets hold (default: the plan's)")
    check.add_argument("--repetitions", type=int, metavar="N", help="default: the plan's")
    check.add_argument("--duration-s", type=float, help="of every phase (default: the plan's)")
    check.add_argument("--processes", type=int, metavar="N", help="that generate load here (default: the plan's)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the raw samples there")
    report.add_options(check)
    hosts = check.add_argument_group("several hosts")
    hosts.add_argument("--master", action="store_true", help="wait for `rfserve-loadtest worker` of other hosts")
    hosts.add_argument("--expect-workers", type=int, default=0, metavar="N", help="that many; goes with --master")
    hosts.add_argument("--master-bind-host", default="0.0.0.0", metavar="HOST", help="default: %(default)s")  # noqa: S104
    hosts.add_argument("--master-port", type=int, default=MASTER_PORT, metavar="PORT", help="default: %(default)s")
    hosts.add_argument("--wait-s", type=float, default=WAIT_S, help="for all of them to come (default: %(default)g)")
    server_options.add_to(check)
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    plan = _chosen(plans.read(options.plan), options)
    _look_for_folders(options)
    endpoint = server_options.endpoint_of(options)
    # A wrong address is no server that fails. A master may not reach the server that its workers reach.
    if not options.master:
        endpoint.look()
    with _engine(plan, options) as engine:
        run = engine.run(plan, endpoint, repository=options.repository, look=options.master, progress=tell)
    if options.json is not None:
        run.write(options.json)
    verdicts = verdict.judge(run)
    report.write(options, run, verdicts)
    print(table.text(run, verdicts))
    return verdict.exit_code(verdicts)


def _chosen(plan: Plan, options: argparse.Namespace) -> Plan:
    """The plan with what the options change of it."""
    changes = {
        name: value
        for name in ("device", "repetitions", "processes")
        if (value := getattr(options, name)) is not None and not (name == "processes" and options.master)
    }
    phases = plan.phases
    if options.models:
        phases = tuple(p for p in phases if {s.model for s in p.streams} <= set(options.models))
        if missing := set(options.models) - {s.model for p in phases for s in p.streams}:
            raise LoadTestError(f"plan {plan.name} has no phase of {', '.join(sorted(missing))} alone")
    if options.duration_s is not None:
        phases = tuple(replace(p, duration_s=options.duration_s) for p in phases)
    return replace(plan, phases=phases, **changes)


def _look_for_folders(options: argparse.Namespace) -> None:
    """`LoadTestError` before anything is measured that could not be kept."""
    for name in ("json", "html", "junit"):
        file: Path | None = getattr(options, name, None)
        if file is not None and not file.parent.is_dir():
            raise LoadTestError(f"--{name} {file}: there is no folder {file.parent}; make it first")


def _engine(plan: Plan, options: argparse.Namespace) -> Engine:
    if not options.master:
        if options.expect_workers:
            raise LoadTestError(f"got --expect-workers {options.expect_workers} without --master; give both, or none")
        return Engine(processes=plan.processes, listen=(LOOPBACK, 0), wait_s=options.wait_s)
    if options.expect_workers < 1:
        raise LoadTestError("got --master without workers to wait for; give --expect-workers N")
    tell(
        f"waits for {options.expect_workers} x `rfserve-loadtest worker --master-host HOST --master-port "
        f"{options.master_port}`"
    )
    return Engine(
        processes=options.processes or 0,
        listen=(options.master_bind_host, options.master_port),
        expect_workers=options.expect_workers,
        wait_s=options.wait_s,
    )
