"""The command-line options that say which servers are asked, and how; the same for every command."""

import argparse
import os
from pathlib import Path
from typing import Any

DEFAULT_URL = "127.0.0.1:8001"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add them to a command."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("RFSERVE_URL", DEFAULT_URL),
        help=f"gRPC address, or several with commas between them (default: RFSERVE_URL, else {DEFAULT_URL})",
    )
    group.add_argument(
        "--timeout-s", type=float, default=10.0, help="for a call with its retries (default: %(default)s)"
    )
    group.add_argument("--try-timeout-s", type=float, help="ask the next of several servers after this time")
    group.add_argument("--connections", type=int, default=1, help="to each server (default: %(default)s)")
    group.add_argument("--tls", action="store_true", help="encrypt; trusts the system's roots")
    group.add_argument("--root-certificates", type=Path, metavar="CA.pem", help="encrypt, and trust these")
    group.add_argument("--private-key", type=Path, metavar="KEY.pem", help="for a server that asks who calls")
    group.add_argument("--certificate-chain", type=Path, metavar="CERT.pem", help="goes with --private-key")


def connection_of(options: argparse.Namespace) -> dict[str, Any]:
    """What they say, as keyword arguments of the clients; `ClientError` when a client is made of what cannot be."""
    names = ("url", "timeout_s", "try_timeout_s", "connections")
    tls = ("tls", "root_certificates", "private_key", "certificate_chain")
    return {name: getattr(options, name) for name in (*names, *tls)}
