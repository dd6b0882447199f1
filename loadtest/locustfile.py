"""`locust -f loadtest/locustfile.py`: one user class for each served model, and the verdict at the end.

Exit code 0: every budget kept; 1: a budget broke or a request failed; 3: the run proves nothing.
"""

# gevent must have patched the standard library before anything opens a socket; locust does so when it is imported.
import argparse
from pathlib import Path
from typing import Any

import grpc.experimental.gevent as grpc_gevent
from locust import events
from locust.env import Environment

from rfserve.loadtest import verdict
from rfserve.loadtest.user import SAMPLES, ModelUser

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
    parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu", help="whose budgets and rates")
    parser.add_argument("--rate-scale", type=float, default=1.0, help="multiple of the budget's arrival rate")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="deadline of each request")
    parser.add_argument("--seed", type=int, default=1, help="of the arrival times")
    parser.add_argument(
        "--budget-ms",
        type=_replaced_budget,
        action="append",
        default=[],
        metavar="MODEL=MS",
        include_in_web_ui=False,
        help="replace a p99 budget",
    )
    parser.add_argument("--report-json", type=Path, default=None, include_in_web_ui=False, help="write figures there")


@events.test_start.add_listener
def forget(environment: Environment, **_: Any) -> None:
    """A run started again on the web page is a run of its own."""
    del environment
    for samples in SAMPLES.values():
        samples.latencies_s.clear()
        samples.lags_s.clear()
        samples.failures.clear()


@events.quitting.add_listener
def decide(environment: Environment, **_: Any) -> None:
    """Print the verdict and make it the exit code."""
    options: argparse.Namespace = environment.parsed_options
    budgets = dict(options.budget_ms)
    verdicts = [
        verdict.judge(model, samples, target=options.target, budget_ms=budgets.get(model))
        for model, samples in SAMPLES.items()
    ]
    print(verdict.table(verdicts))
    if options.report_json is not None:
        verdict.write_report(verdicts, SAMPLES, options.report_json)
    environment.process_exit_code = verdict.exit_code(verdicts)
