"""`rfserve-server`: run a tritonserver on this machine, and see how it is."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rfserve.server import foreground, object_location, status
from rfserve.server.errors import ServerError
from rfserve.server.foreground import URL_VARIABLE
from rfserve.server.model_watch import WatchOptions
from rfserve.server.options import CONFIGS, ServerOptions
from rfserve.server.security import Security, admin_key_of
from rfserve.server.service import Service, ServiceOptions
from rfserve.server.trace_export import TraceExport

RELEASE = "release"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; tritonserver's exit code, or 1 with the reason on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given[:1] if given[:1] == [RELEASE] else given)
    try:
        if given[:1] == [RELEASE]:
            return _release(given[1:])
        done: int = options.command(options)
        return done
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _release(arguments: Sequence[str]) -> int:
    """Hand over to the package that releases, which needs what export needs; the server itself runs without."""
    try:
        module = import_module("rfserve.release.command")
    except ModuleNotFoundError as error:
        raise ServerError(
            f"{RELEASE} needs {error.name}, which is not installed: pip install 'rfserve[release]'"
        ) from error
    done: int = module.main(arguments)
    return done


def _service(options: argparse.Namespace) -> Service:
    security = _security(options)
    for note in security.notes(options.address):
        print(f"warning: {note}", file=sys.stderr)
    return Service(
        ServiceOptions(
            server=ServerOptions(
                repository=options.repository,
                config=options.config,
                address=options.address,
                grpc_port=options.grpc_port,
                http_port=options.http_port,
                metrics_port=options.metrics_port,
                models=tuple(options.model),
                load_timeout_s=options.load_timeout_s,
                exit_timeout_s=options.exit_timeout_s,
                log_file=options.log_file,
                allow_partial=not options.strict,
                extra_arguments=tuple(options.argument),
                security=security,
            ),
            watch=WatchOptions(interval_s=options.watchdog_interval_s) if options.watchdog else None,
            trace=TraceExport(url=options.trace_url, rate=options.trace_rate) if options.trace_url else None,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-server", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve a model repository until SIGTERM or Ctrl-C")
    run.set_defaults(command=lambda given: foreground.run(_service(given)))
    during = commands.add_parser("exec", help=f"serve while a command runs, with the gRPC address in {URL_VARIABLE}")
    during.set_defaults(command=lambda given: foreground.execute(_service(given), given.program))
    for command in (run, during):
        _add_options(command)
    # What is left of a broken repository is worth serving, and a supervisor would start it over and over; the command
    # of `exec` counts on its models.
    for command, strict in ((run, False), (during, True)):
        command.add_argument(
            "--strict",
            action=argparse.BooleanOptionalAction,
            default=strict,
            help="fail when a model does not load, instead of serving the others",
        )
    status.add_command(commands)
    commands.add_parser(RELEASE, add_help=False, help="a version on every pod, checked on each; or all as it was")
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
    run.add_argument(
        "--exit-timeout-s", type=int, default=30, help="to answer what is in flight at SIGTERM (default: %(default)s)"
    )
    run.add_argument(
        "--watchdog-interval-s",
        type=float,
        default=WatchOptions.interval_s,
        help="time between two canaries of a model (default: %(default)s)",
    )
    run.add_argument(
        "--no-watchdog", dest="watchdog", action="store_false", help="neither send canaries nor mend dead models"
    )
    run.add_argument("--trace-url", metavar="URL", help="OTLP collector for spans, as http://HOST:4318/v1/traces")
    run.add_argument(
        "--trace-rate", type=float, default=TraceExport.rate, help="share of requests traced (default: %(default)s)"
    )
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
