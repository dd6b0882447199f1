"""`locust -f loadtest/locustfile.py`: one user class for each served model, and the verdict at the end.

Exit code 0: every budget kept; 1: a budget broke; 2: no server; 3: the run proves neither, or a class sent nothing.
Each class has one user, which sends at its model's rate, all at once. `rfserve-loadtest check` is for one model after
the other, in repetitions, from several processes.
"""

# gevent must have patched the standard library before anything opens a socket; locust does so when it is imported.
import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.experimental.gevent as grpc_gevent
from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner

from rfserve.export.spec import DEVICES, RfserveError, find
from rfserve.loadtest import handover, machine, table, verdict
from rfserve.loadtest.cli import ERROR
from rfserve.loadtest.commands.server_options import DEFAULT_URL
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.measurement import Run
from rfserve.loadtest.plan import FIGURES, Phase, Plan, Stream
from rfserve.loadtest.user import TAKEN, ModelUser

grpc_gevent.init_gevent()


class LocalizationNetUser(ModelUser):
    """One mel spectrogram a request."""

    model = "localization_net"


class HeimdallNetUser(ModelUser):
    """Several receivers, masked pooling."""

    model = "heimdall_net"


class HeimdallNetProUser(ModelUser):
    """Several receivers, Performer attention."""

    model = "heimdall_net_pro"


class IqFeaturesUser(ModelUser):
    """Raw IQ of several receivers to features."""

    model = "iq_features"


class MelFeaturesUser(ModelUser):
    """Raw IQ of one receiver to its spectrogram."""

    model = "mel_features"


class LocateUser(ModelUser):
    """Raw IQ to fix with HeimdallNet."""

    model = "locate"


class LocateProUser(ModelUser):
    """Raw IQ to fix with HeimdallNetPro."""

    model = "locate_pro"


class LocateSpectrogramUser(ModelUser):
    """Raw IQ to fix with LocalizationNet."""

    model = "locate_spectrogram"


def _replaced_budget(text: str) -> tuple[str, float]:
    model, _, milliseconds = text.partition("=")
    return model, float(milliseconds)


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Options of the load test, on the command line and on the web page."""
    parser.add_argument("--device", choices=tuple(DEVICES), default="cpu-2core", help="whose budgets and rates")
    parser.add_argument("--rate-scale", type=float, default=1.0, help="multiple of the budget's arrival rate")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="deadline of each request")
    parser.add_argument("--seed", type=int, default=1, help="of the arrival times")
    parser.add_argument("--figures", default=",".join(FIGURES), help="that are judged, with commas between them")
    parser.add_argument(
        "--budget-ms",
        type=_replaced_budget,
        action="append",
        default=[],
        metavar="MODEL=MS",
        include_in_web_ui=False,
        help="replace the budget of every percentile",
    )
    # No `Path`: Locust sends every option to its workers.
    parser.add_argument("--report-json", metavar="FILE", include_in_web_ui=False, help="write the run there")


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Have users know what they do, and one of each chosen class start at once where nothing else is said."""
    options = environment.parsed_options
    environment.rfserve_plan = lambda *models: _plan(options, *models)
    for name in ("num_users", "spawn_rate"):
        if getattr(options, name) is None:
            setattr(options, name, len(environment.user_classes))
    handover.register(environment)


def _plan(options: argparse.Namespace, *models: str) -> Plan:
    rates = {m: find(m).budgets[options.device].rate_hz * options.rate_scale for m in models}
    streams = tuple(Stream(model=m, rate_hz=rate) for m, rate in rates.items())
    replaced: dict[str, float] = dict(options.budget_ms)
    return Plan(
        name="locust",
        device=options.device,
        phases=(Phase(name="locust", duration_s=1.0, streams=streams),),
        seed=options.seed,
        timeout_s=options.timeout_s,
        figures=tuple(options.figures.split(",")),
        budgets={m: dict.fromkeys(verdict.PERCENTILES, ms) for m, ms in replaced.items()},
    )


@events.test_start.add_listener
def begin(**_: Any) -> None:
    """Forget what an earlier run of the web page left behind."""
    handover.begin()


@events.test_stop.add_listener
def end(environment: Environment, **_: Any) -> None:
    """Have the master know what its workers' users left behind."""
    handover.end(environment)


@events.quitting.add_listener
def decide(environment: Environment, **_: Any) -> None:
    """Print the verdict and make it the exit code."""
    if isinstance(environment.runner, WorkerRunner):
        # The master decides.
        return
    # Ctrl-C leaves users that still run.
    environment.runner.stop()
    try:
        run = _run(environment)
        if not any(m.answered for m in run.measurements):
            # A wrong address is no server that fails.
            Endpoint(url=run.url).look()
    except RfserveError as error:
        print(f"error: {error}")
        environment.process_exit_code = ERROR
        return
    verdicts = verdict.judge(run)
    print(table.text(run, verdicts))
    if environment.parsed_options.report_json is not None:
        run.write(Path(environment.parsed_options.report_json))
    code = verdict.exit_code(verdicts)
    idle = sorted(c.__name__ for c in environment.user_classes if c.model not in TAKEN)
    if idle:
        print(f"nothing was sent by {', '.join(idle)}; give a longer -t, and no -u or {len(environment.user_classes)}")
        code = verdict.UNPROVEN if code == verdict.OK else code
    environment.process_exit_code = code


def _run(environment: Environment) -> Run:
    """What all users left behind."""
    options: argparse.Namespace = environment.parsed_options
    return Run(
        name="locust",
        device=options.device,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        url=environment.host or DEFAULT_URL,
        machine=machine.describe(""),
        measurements=tuple(m for model, taken in TAKEN.items() for m in taken.measurements(model)),
        plan=_plan(options, *(c.model for c in environment.user_classes)).to_dict(),
    )
