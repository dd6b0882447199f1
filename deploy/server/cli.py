"""`rfserve-server`: run a tritonserver on this machine."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rfserve.server import readiness
from rfserve.server.errors import ServerError
from rfserve.server.options import CONFIGS, ServerOptions
from rfserve.server.process import TritonServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; tritonserver's exit code, or 1 with the reason on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    server = TritonServer(
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
            extra_arguments=tuple(options.extra),
        )
    )

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
        for entry in readiness.repository_index(server.http_url):
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
    run.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: %(default)s")
    run.add_argument("--config", choices=CONFIGS, default="cpu", help="which configs/NAME.pbtxt (default: %(default)s)")
    run.add_argument("--address", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    run.add_argument("--grpc-port", type=int, default=8001, help="default: %(default)s; 0 picks a free one")
    run.add_argument("--http-port", type=int, default=8000, help="default: %(default)s; 0 picks a free one")
    run.add_argument("--metrics-port", type=int, default=8002, help="default: %(default)s; 0 picks a free one")
    run.add_argument("--model", action="append", default=[], help="serve only this one (again for more)")
    run.add_argument("--load-timeout-s", type=float, default=300.0, help="default: %(default)s")
    run.add_argument("--log-file", type=Path, help="keep tritonserver's log there")
    run.add_argument("extra", nargs="*", metavar="-- ARGUMENT", help="further arguments for tritonserver")
    return parser


if __name__ == "__main__":
    sys.exit(main())
