"""`rfserve-loadtest`: prove the budgets of a running server, one model after the other."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rfserve.export.spec import MODELS, RfserveError, find
from rfserve.loadtest.verdict import BROKEN, INVALID, OK

LOCUSTFILE = Path(__file__).parent / "locustfile.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run Locust without its page for each model; the worst exit code of `loadtest/locustfile.py`."""
    options = _parser().parse_args(arguments)
    try:
        models = [find(name).name for name in options.models or MODELS]
    except RfserveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    codes = [_run(model, options) for model in models]
    return BROKEN if BROKEN in codes else INVALID if set(codes) - {OK} else OK


def _run(model: str, options: argparse.Namespace) -> int:
    """Alone, so that a budget is about the model and not about its neighbours."""
    user = "".join(part.capitalize() for part in model.split("_")) + "User"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), user, "--headless", "-u", "1"]
    command += ["--host", options.url, "-t", f"{options.duration_s}s", "--target", options.target]
    command += ["--rate-scale", str(options.rate_scale), "--only-summary", "--loglevel", "WARNING"]
    if options.report_folder is not None:
        options.report_folder.mkdir(parents=True, exist_ok=True)
        command += ["--report-json", str(options.report_folder / f"{model}.json")]
    return subprocess.run(command, check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-loadtest", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--url", default="127.0.0.1:8001", help="gRPC address (default: %(default)s)")
    parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu", help="default: %(default)s")
    parser.add_argument("--duration-s", type=int, default=30, help="for each model (default: %(default)s)")
    parser.add_argument("--rate-scale", type=float, default=1.0, help="multiple of the budget's arrival rate")
    parser.add_argument("--report-folder", type=Path, help="write one JSON report for each model there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
