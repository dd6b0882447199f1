"""`rfserve-loadtest tune`: which instances, threads, wait and batch serve most within the budget."""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfserve.export.spec import DEVICES, EnsembleSpec, find
from rfserve.loadtest import tuning
from rfserve.loadtest.candidate import Candidate, sweep
from rfserve.loadtest.capacity import Capacity
from rfserve.loadtest.capacity_question import BETWEEN_S, Question
from rfserve.loadtest.capacity_search import Search, rounded
from rfserve.loadtest.commands import capacity as capacity_command
from rfserve.loadtest.commands import server_options
from rfserve.loadtest.commands.capacity import minutes
from rfserve.loadtest.commands.progress import tell
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.engine import Engine
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.model_control import ModelControl
from rfserve.loadtest.tuning import Screening, Tried, Tuning
from rfserve.loadtest.verdict import BROKEN, OK, UNPROVEN

# What a load takes, for what is said beforehand.
LOAD_S = 10.0
INTERRUPTED = 130
# A search begins well below what saturates the server, and ends where it cannot hold any more.
BEGIN_SHARE, LOWEST_SHARE, HIGHEST_SHARE = 0.5, 0.125, 1.5


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    command = commands.add_parser(
        "tune",
        help="try instances, threads, wait and batch on the running server, which is put back as it was: exit code 0 "
        "when the best is known, 1 when none holds the budget, 3 when that is not known",
    )
    command.add_argument("model", metavar="MODEL")
    sweeps = command.add_argument_group("what is tried, in every combination (default: around the present one)")
    sweeps.add_argument("--instances", type=int, nargs="+", default=[], metavar="N")
    sweeps.add_argument("--threads", type=int, nargs="+", default=[], metavar="N", help="of each instance")
    sweeps.add_argument("--preferred", type=int, nargs="+", default=[], metavar="N", help="rows joined at most")
    sweeps.add_argument(
        "--delay-us",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="the batcher's wait; other than 0, and one instance, are tried without the queue's limits, which Triton "
        "does not keep beside them, and never written",
    )
    command.add_argument("--screen-s", type=float, default=4.0, metavar="N", help="of a look (default: %(default)g)")
    command.add_argument("--rounds", type=int, default=2, metavar="N", help="looks at each (default: %(default)s)")
    command.add_argument(
        "--finalists", type=int, default=2, metavar="N", help="whose capacity is searched, beside the present one's"
    )
    capacity_command.add_options(command)
    command.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    command.add_argument(
        "--write", action="store_true", help="write the best into the --repository, unless it is the present one"
    )
    server_options.add_to(command)
    command.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> int:
    spec = find(options.model)
    if isinstance(spec, EnsembleSpec):
        steps = ", ".join(s.model.name for s in spec.steps)
        raise LoadTestError(f"{spec.name} is an ensemble, which runs nothing itself; tune its steps: {steps}")
    if options.write and options.repository is None:
        raise LoadTestError("got --write without --repository; say which repository the server serves")
    if options.rounds < 1 or options.finalists < 0:
        raise LoadTestError(f"got {options.rounds} rounds, {options.finalists} finalists; expected 1, and 0, or more")
    asked = capacity_command.question_of(options, options.model)
    found = Tuning(question=asked, resolution=options.resolution_percent / 100)
    endpoint = server_options.endpoint_of(options)
    try:
        with ModelControl(endpoint, options.model) as control, control.kept() as config:
            _refuse_other_target(config, options.device)
            with Engine(processes=options.processes) as engine:
                session = _Session(engine, endpoint, control, config, options)
                found = session.searched(session.screened(found))
            tell(f"putting {options.model} back as it was")
    except KeyboardInterrupt:
        tell(f"interrupted; {options.model} is as it was")
        return INTERRUPTED
    if options.json is not None:
        found.write(options.json)
    print(found.text())
    best = found.best
    if options.write:
        _write(found, options)
    elif best is not None and best is not found.present and best.capacity_hz:
        print(f"to keep it: rfserve-export {' '.join(_place_arguments(best.candidate, options))}")
    if best is None:
        return UNPROVEN
    return OK if best.capacity_hz else BROKEN


def _refuse_other_target(config: Any, device: str) -> None:
    """A budget of a GPU says nothing of a model on CPUs, and its file is another one."""
    target = DEVICES[device].target
    served = {"gpu": "KIND_GPU", "cpu": "KIND_CPU"}
    kinds = {g.Kind.Name(g.kind) for g in config.instance_group}
    if kinds != {served[target]}:
        raise LoadTestError(
            f"{config.name} runs as {', '.join(sorted(kinds))}, and {device} is a {target}; see --device"
        )


class _Session:
    """What goes on between the server's own configuration and its return."""

    def __init__(
        self, engine: Engine, endpoint: Endpoint, control: ModelControl, config: Any, options: argparse.Namespace
    ) -> None:
        self._engine, self._endpoint, self._control = engine, endpoint, control
        self._config, self._options = config, options

    def screened(self, found: Tuning) -> Tuning:
        """Every candidate, looked at in each round."""
        options, question = self._options, found.question
        candidates = sweep(
            Candidate.of(self._config),
            self._config.max_batch_size,
            instances=options.instances,
            threads=options.threads,
            delays_us=options.delay_us,
            joined_rows=options.preferred,
        )
        # Before anything is loaded: what cannot be is no candidate.
        configs = [c.applied(self._config) for c in candidates]
        rate_hz = find(question.model).budgets[question.device].rate_hz
        plan = tuning.screening_plan(
            question, users=tuning.users(self._config, candidates), rate_hz=rate_hz, seconds=options.screen_s
        )
        look_s = LOAD_S + 2 * (plan.warm_up_s + options.screen_s + plan.timeout_s + BETWEEN_S)
        tell(
            f"{question.model}, {question.budget}: {options.rounds} looks at {len(candidates)} candidates, "
            f"{minutes(options.rounds * len(candidates) * look_s)}; then the search for {options.finalists + 1} of them"
        )
        tried = [Tried(candidate=c) for c in candidates]
        for turn in range(options.rounds):
            for i, candidate in enumerate(candidates):
                if tried[i].problem:
                    continue
                try:
                    self._control.try_out(configs[i])
                except LoadTestError as error:
                    tried[i] = replace(tried[i], problem=str(error))
                    tell(f"  {candidate}: {error}")
                    continue
                seen = Screening.of(self._engine.run(plan, self._endpoint, repository=options.repository))
                tried[i] = replace(tried[i], screenings=(*tried[i].screenings, seen))
                tell(
                    f"  round {turn + 1}: {candidate}: {seen.saturated_hz:.4g}/s saturated, "
                    f"p95 {seen.rated_ms:.4g} ms at {rate_hz:g}/s"
                )
        return replace(found, tried=tuple(tried))

    def searched(self, found: Tuning) -> Tuning:
        """The capacity of the best few, and of the present one."""
        chosen = tuning.finalists(found.tried, found.question, self._options.finalists)
        for candidate in chosen:
            index = [t.candidate for t in found.tried].index(candidate)
            tried = found.tried[index]
            self._control.try_out(candidate.applied(self._config))
            of_it = replace(tried, capacity=self._capacity(found.question, tried, found.resolution))
            found = replace(found, tried=(*found.tried[:index], of_it, *found.tried[index + 1 :]))
        return found

    def _capacity(self, question: Question, tried: Tried, resolution: float) -> Capacity:
        measured = Capacity(question=question, search=search_of(tried, resolution))
        tell(f"{tried.candidate}: the search takes {minutes(measured.most_s)}")
        begun = time.monotonic()
        while measured.next_hz is not None:
            measured = capacity_command.measure(
                self._engine, self._endpoint, measured, repository=self._options.repository, indent="  "
            )
        tell(f"  {measured.statement()} ({time.monotonic() - begun:.0f} s)")
        return measured


def search_of(tried: Tried, resolution: float) -> Search:
    """Around what saturated the server: an open loop holds no budget above that."""
    full_hz = tried.saturated_hz
    if not full_hz > 0:
        raise LoadTestError(f"{tried.candidate}: nothing was answered; see the server's log")
    return Search(
        start_hz=rounded(BEGIN_SHARE * full_hz),
        lowest_hz=rounded(LOWEST_SHARE * full_hz),
        highest_hz=rounded(HIGHEST_SHARE * full_hz),
        resolution=resolution,
    )


def _write(found: Tuning, options: argparse.Namespace) -> None:
    """Have the exporter write the best: it alone writes configurations, and this package may not use it."""
    best = found.best
    if best is None or best is found.present or not best.capacity_hz:
        print("nothing was written: the configuration stays as it is")
        return
    arguments = _place_arguments(best.candidate, options)
    # What it prints has to come after what was printed here.
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "rfserve.export.cli", *arguments], check=False)
    if done.returncode:
        raise LoadTestError(
            f"nothing was written; where the export extra is installed, `rfserve-export {' '.join(arguments)}` does"
        )


def _place_arguments(best: Candidate, options: argparse.Namespace) -> list[str]:
    numbers = ("--instances", best.instances, "--threads", best.threads, "--joined-rows", best.joined_rows)
    where = () if options.repository is None else ("--repository", options.repository)
    return [str(a) for a in ("place", options.model, "--target", DEVICES[options.device].target, *numbers, *where)]
