"""`rfserve-loadtest worker`: generate load for a master on another host."""

import argparse
import subprocess
import sys
from typing import Any

from rfserve.loadtest.engine import MASTER_PORT
from rfserve.loadtest.errors import LoadTestError


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-loadtest`."""
    worker = commands.add_parser("worker", help="generate load for `check --master` of another host, until it is done")
    worker.add_argument("--master-host", required=True, metavar="HOST")
    worker.add_argument("--master-port", type=int, default=MASTER_PORT, metavar="PORT", help="default: %(default)s")
    worker.set_defaults(run=_work)


def _work(options: argparse.Namespace) -> int:
    arguments = ["--master-host", options.master_host, "--master-port", str(options.master_port)]
    # Of its own, because gevent patches what it runs in; its stdin ends when this process does.
    command = [sys.executable, "-m", "rfserve.loadtest.locust_worker", *arguments, "--tethered"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return 130
    if code < 0:
        raise LoadTestError(f"the load generator was ended by signal {-code}; start it again")
    return code
