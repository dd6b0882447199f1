"""`rfserve-loadtest capacity`: the highest rate at which a model holds its latency budget."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfserve.export.spec import DEVICES
from rfserve.loadtest import capacity, capacity_page, capacity_text
from rfserve.loadtest.capacity import Capacity
from rfserve.loadtest.capacity_question import Question, question
from rfserve.loadtest.commands import server_options
from rfserve.loadtest.commands.progress import tell
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.engine import Engine
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.plan import Mix

DEVICE = "cpu-2core"


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    command = commands.add_parser(
        "capacity",
        help="the highest rate that holds the budget: exit code 0 when it is found, 1 when no rate holds it, 3 when "
        "that is not known",
    )
    command.add_argument("model", metavar="MODEL")
    add_options(command)
    command.add_argument("--from-hz", type=float, metavar="N", help="where to begin (default: the spec's rate)")
    command.add_argument("--lowest-hz", type=float, metavar="N", help="default: a quarter of where it begins")
    command.add_argument("--highest-hz", type=float, metavar="N", help="default: 256 times where it begins")
    command.add_argument("--time-limit-s", type=float, metavar="N", help="measure nothing that may take longer")
    command.add_argument("--json", type=Path, metavar="FILE", help="write every point there, after each of them")
    command.add_argument("--resume", action="store_true", help="go on with the points in the --json file")
    command.add_argument("--html", type=Path, metavar="FILE", help="draw latency against load there")
    command.add_argument("--svg", type=Path, metavar="FILE.svg", help="the drawing alone")
    server_options.add_to(command)
    command.set_defaults(run=_capacity)


def add_options(command: argparse.ArgumentParser) -> None:
    """What is asked of a model, and how it is measured."""
    command.add_argument("--budget-ms", type=float, metavar="N", help="default: the spec's for the device")
    command.add_argument("--percentile", type=float, default=99.0, metavar="N", help="50, 95 or 99 (default: 99)")
    command.add_argument(
        "--device", choices=tuple(DEVICES), default=DEVICE, help="whose budget holds (default: %(default)s)"
    )
    command.add_argument(
        "--resolution-percent", type=float, default=5.0, metavar="N", help="how exactly (default: %(default)g)"
    )
    command.add_argument("--repetitions", type=int, default=5, metavar="N", help="of each rate (default: %(default)s)")
    command.add_argument(
        "--window-s",
        type=float,
        default=3.0,
        metavar="N",
        help="at least; longer where the percentile needs more answers (default: %(default)g)",
    )
    command.add_argument("--receivers", type=int, nargs="+", default=[], metavar="N", help="active ones, in turn")
    command.add_argument("--processes", type=int, default=1, metavar="N", help="that generate load")


def question_of(options: argparse.Namespace, model: str) -> Question:
    """What the options ask of a model."""
    asked = question(model, options.device, percentile=options.percentile, budget_ms=options.budget_ms)
    return replace(
        asked,
        repetitions=options.repetitions,
        window_s=options.window_s,
        processes=options.processes,
        mix=Mix(receivers=tuple(options.receivers)),
    )


def measure(
    engine: Engine, endpoint: Endpoint, found: Capacity, *, repository: Path | None, indent: str = ""
) -> Capacity:
    """The next rate, measured; there has to be one."""
    rate_hz = found.next_hz
    if rate_hz is None:
        raise LoadTestError("nothing is left to measure")
    plan = found.question.plan(rate_hz)
    seconds = plan.phases[0].duration_s
    tell(f"{indent}{rate_hz:g}/s: {plan.repetitions} x {seconds:g} s; all that is left takes {minutes(found.most_s)}")
    found = found.with_run(engine.run(plan, endpoint, repository=repository))
    (point,) = (p for p in found.points if p.rate_hz == rate_hz)
    tell(f"{indent}{capacity_text.row(point, found.question.figure)}")
    return found


def minutes(seconds: float) -> str:
    """How long something takes at most, in words."""
    return f"at most {seconds:.0f} s" if seconds < 120 else f"at most {seconds / 60:.0f} minutes"


def _capacity(options: argparse.Namespace) -> int:
    found = _begun(options)
    if found.next_hz is not None:
        tell(f"{found.question.model}, {found.question.budget}: {minutes(found.most_s)}")
        found = _measured(found, options)
    _keep(found, options)
    if options.html is not None:
        capacity_page.write(found, options.html)
    if options.svg is not None and capacity_page.chart(found) is not None:
        capacity_page.write(found, options.svg)
    print(capacity_text.text(found))
    return found.exit_code()


def _begun(options: argparse.Namespace) -> Capacity:
    """An empty one, or what the file holds with the options' search."""
    asked = question_of(options, options.model)
    search = capacity.search(
        options.model,
        options.device,
        resolution=options.resolution_percent / 100,
        start_hz=options.from_hz,
        lowest_hz=options.lowest_hz,
        highest_hz=options.highest_hz,
    )
    if options.svg is not None and options.svg.suffix != ".svg":
        raise LoadTestError(f"got --svg {options.svg}; expected a name that ends in .svg")
    if not options.resume:
        return Capacity(question=asked, search=search)
    if options.json is None:
        raise LoadTestError("got --resume without --json; give the file that holds the points so far")
    kept = Capacity.read(options.json)
    if kept.question != asked:
        raise LoadTestError(
            f"{options.json} asks {kept.question}; this is {asked}: give the same options, or begin anew"
        )
    return replace(kept, search=search)


def _measured(found: Capacity, options: argparse.Namespace) -> Capacity:
    """Point after point, as far as the time limit goes, or until Ctrl-C: what is there by then is kept."""
    endpoint = server_options.endpoint_of(options)
    # A wrong address is no rate that fails.
    endpoint.look()
    limit_s = float("inf") if options.time_limit_s is None else options.time_limit_s
    begun = time.monotonic()
    try:
        with Engine(processes=options.processes) as engine:
            while (rate_hz := found.next_hz) is not None:
                cost_s, left_s = found.question.cost_s(rate_hz), limit_s - (time.monotonic() - begun)
                if cost_s > left_s:
                    tell(f"{rate_hz:g}/s may take {cost_s:.0f} s, and {left_s:.0f} s are left")
                    break
                found = measure(engine, endpoint, found, repository=options.repository)
                _keep(found, options)
    except KeyboardInterrupt:
        tell("interrupted")
    return found


def _keep(found: Capacity, options: argparse.Namespace) -> None:
    if options.json is not None:
        found.write(options.json)
