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
from rfserve.server.security import Security, admin_key_of

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
    security = _security(options)
    for note in security.notes(options.address):
        print(f"warning: {note}", file=sys.stderr)
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
            security=security,
        )
    )


def _security(options: argparse.Namespace) -> Security:
    key = {} if options.admin_key_file is None else {"admin_key": admin_key_of(options.admin_key_file)}
    return Security(
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        client_ca=options.client_ca,
        open_admin=options.open_admin,
        open_shared_memory=options.open_shared_memory,
        **key,
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
    _add_security(run)
    run.add_argument("--model", action="append", default=[], help="serve only this one (again for more)")
    run.add_argument("--load-timeout-s", type=float, default=300.0, help="default: %(default)s")
    run.add_argument("--log-file", type=Path, help="keep tritonserver's log there")
    run.add_argument(
        "--argument", action="append", default=[], help="further argument for tritonserver (as --argument=--x=y)"
    )


def _add_security(run: argparse.ArgumentParser) -> None:
    tls = run.add_argument_group("TLS", "on gRPC; HTTP and metrics have none, and then listen on loopback only")
    tls.add_argument("--tls-cert", type=Path, metavar="CERT.pem", help="the server's certificate, with its chain")
    tls.add_argument("--tls-key", type=Path, metavar="KEY.pem", help="its private key, without a password")
    tls.add_argument("--client-ca", type=Path, metavar="CA.pem", help="serve only clients whose certificate it signed")
    admin = run.add_argument_group(
        "administration", "loading models, their configuration, shared memory, logs and traces; closed without these"
    )
    opened = admin.add_mutually_exclusive_group()
    opened.add_argument("--admin-key-file", type=Path, metavar="FILE", help="open to who sends the key in it")
    opened.add_argument("--open-admin", action="store_true", help="open to every user of this machine, for a desk")
    admin.add_argument(
        "--open-shared-memory", action="store_true", help="only that, for clients on this machine that pass tensors so"
    )


if __name__ == "__main__":
    sys.exit(main())
