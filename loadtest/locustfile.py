"""`locust -f loadtest/locustfile.py`: one user class for each served model, and the verdict at the end.

Exit code 0: every budget kept; 1: a budget broke; 3: the run proves neither. Each model gets its budget's rate, all at
once. `rfserve-loadtest check` is for one after the other, in repetitions, from several processes.
"""

# gevent must have patched the standard library before anything opens a socket; locust does so when it is imported.
import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.experimental.gevent as grpc_gevent
from locust import events
from locust.env import Environment

from rfserve.export.spec import DEVICES, find
from rfserve.loadtest import machine, table, verdict
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
    parser.add_argument("--report-json", type=Path, default=None, include_in_web_ui=False, help="write the run there")


@events.init.add_listener
def plan_for(environment: Environment, **_: Any) -> None:
    """Have users know what they do."""
    environment.rfserve_plan = lambda *models: _plan(environment.parsed_options, *models)


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
def forget(environment: Environment, **_: Any) -> None:
    """A run started again on the web page is a run of its own."""
    del environment
    TAKEN.clear()


@events.quitting.add_listener
def decide(environment: Environment, **_: Any) -> None:
    """Print the verdict and make it the exit code."""
    if not TAKEN:
        print("nothing was sent")
        environment.process_exit_code = verdict.UNPROVEN
        return
    options: argparse.Namespace = environment.parsed_options
    run = Run(
        name="locust",
        device=options.device,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        url=environment.host or "",
        machine=machine.describe(""),
        measurements=tuple(m for model, taken in TAKEN.items() for m in taken.measurements(model)),
        plan=_plan(options, *TAKEN).to_dict(),
    )
    verdicts = verdict.judge(run)
    print(table.text(run, verdicts))
    if options.report_json is not None:
        run.write(options.report_json)
    environment.process_exit_code = verdict.exit_code(verdicts)
