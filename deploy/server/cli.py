"""`rfserve-server`: run a tritonserver on this machine."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rfserve.server import object_location
from rfserve.server.errors import ServerError
from rfserve.server.options import CONFIGS, ServerOptions
from rfserve.server.process import TritonServer

URL_VARIABLE = "RFSERVE_URL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; tritonserver's exit code, or 1 with the reason on stderr."""
    options = _parser().parse_args(arguments)
    try:
        done: int = options.command(options)
        return done
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _server(options: argparse.Namespace) -> TritonServer:
    return TritonServer(
        ServerOptions(
            repository=options.repository,
            config=options.config,
            address=options.address,
            grpc_port=options.grpc_port,
            http_port=options.http_port,
            metrics_port=options.metrics_port,
            models=tuple(options.model),
            load_timeout_s=options.load_timeout_s,
            log_file=options.log_file,
            extra_arguments=tuple(options.argument),
        )
    )


def _exec(options: argparse.Namespace) -> int:
    """Serve while one command runs; its exit code."""
    with _server(options) as server:
        environment = dict(os.environ) | {URL_VARIABLE: server.grpc_url}
        try:
            return subprocess.run(options.program, env=environment, check=False).returncode
        except OSError as error:
            raise ServerError(f"cannot run {options.program[0]}: {error}") from error


def _run(options: argparse.Namespace) -> int:
    server = _server(options)

    def forward(number: int, _: FrameType | None) -> None:
        # While models load there is nothing to finish: leave through the clean-up of start().
        if not started:
            raise ServerError(f"stopped by {signal.Signals(number).name} while the models were loading")
        server.send_signal(signal.SIGTERM)

    started = False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    try:
        server.start()
        started = True
        for entry in server.http.repository_index():
            if entry.get("state") == "READY":
                print(f"{entry['name']} version {entry.get('version', '-')}")
        print(f"ready: gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {server.metrics_url}", flush=True)
        code = server.wait()
        if code:
            print(f"error: tritonserver ended with exit code {code}:\n{server.log()[-4000:]}", file=sys.stderr)
        return code if code >= 0 else 128 - code
    finally:
        server.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-server", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve a model repository until SIGTERM or Ctrl-C")
    run.set_defaults(command=_run)
    during = commands.add_parser("exec", help=f"serve while a command runs, with the gRPC address in {URL_VARIABLE}")
    during.set_defaults(command=_exec)
    for command in (run, during):
        _add_options(command)
    during.add_argument("program", nargs="+", metavar="COMMAND", help="after --, with its arguments")
    return parser


def _add_options(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "--repository",
        type=lambda text: text if text.startswith(object_location.SCHEME) else Path(text),
        default=Path("model_repository"),
        metavar="LOCATION",
        help="a folder, or s3://BUCKET/PREFIX (default: %(default)s)",
    )
    run.add_argument("--config", choices=CONFIGS, default="cpu", help="which configs/NAME.pbtxt (default: %(default)s)")
    run.add_argument("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    run.add_argument("--grpc-port", type=int, default=8001, help="default: %(default)s; 0 picks a free one")
    run.add_argument("--http-port", type=int, default=8000, help="default: %(default)s; 0 picks a free one")
    run.add_argument("--metrics-port", type=int, default=8002, help="default: %(default)s; 0 picks a free one")
    run.add_argument("--model", action="append", default=[], help="serve only this one (again for more)")
    run.add_argument("--load-timeout-s", type=float, default=300.0, help="default: %(default)s")
    run.add_argument("--log-file", type=Path, help="keep tritonserver's log there")
    run.add_argument(
        "--argument", action="append", default=[], help="further argument for tritonserver (as --argument=--x=y)"
    )


if __name__ == "__main__":
    sys.exit(main())
