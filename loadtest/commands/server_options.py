"""The options that say which server is under load, and how it is reached; the same for every command."""

import argparse
import os
from pathlib import Path

from rfserve.loadtest.endpoint import Endpoint, key_of

DEFAULT_URL = "127.0.0.1:8001"


def add_to(command: argparse.ArgumentParser) -> None:
    """Add them to a command."""
    group = command.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("RFSERVE_URL", DEFAULT_URL),
        help=f"gRPC address (default: RFSERVE_URL, else {DEFAULT_URL})",
    )
    group.add_argument("--tls", action="store_true", help="encrypt; trusts the system's roots")
    group.add_argument("--root-certificates", metavar="CA.pem", help="encrypt, and trust these")
    group.add_argument("--private-key", metavar="KEY.pem", help="for a server that asks who calls")
    group.add_argument("--certificate-chain", metavar="CERT.pem", help="goes with --private-key")
    group.add_argument(
        "--admin-key-file", type=Path, metavar="FILE", help="the server's own: without it a closed one counts nothing"
    )
    group.add_argument(
        "--repository", type=Path, metavar="DIR", help="what it serves, to say the precision of each version"
    )


def endpoint_of(options: argparse.Namespace) -> Endpoint:
    """The server that they say; `LoadTestError` for what cannot be one."""
    names = ("url", "tls", "root_certificates", "private_key", "certificate_chain")
    key = None if options.admin_key_file is None else key_of(options.admin_key_file)
    return Endpoint(admin_key=key, **{name: getattr(options, name) for name in names})
