"""The options that say where the server is and how it is spoken to."""

import argparse
import os
from pathlib import Path
from typing import Any

DEFAULT_URL = os.environ.get("RFSERVE_URL", "127.0.0.1:8001")


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options to a command that calls the server."""
    command.add_argument("--url", default=DEFAULT_URL, help="gRPC address (default: RFSERVE_URL, else 127.0.0.1:8001)")
    command.add_argument("--timeout-s", type=float, default=10.0, help="default: %(default)s")
    command.add_argument("--tls", action="store_true", help="encrypt; trusts the system's roots")
    command.add_argument("--root-certificates", type=Path, metavar="CA.pem", help="encrypt, and trust these")
    command.add_argument("--private-key", type=Path, metavar="KEY.pem", help="for a server that asks who calls")
    command.add_argument("--certificate-chain", type=Path, metavar="CERT.pem", help="goes with --private-key")


def connection_of(options: argparse.Namespace) -> dict[str, Any]:
    """The client's keyword arguments that the options stand for."""
    names = ("url", "timeout_s", "tls", "root_certificates", "private_key", "certificate_chain")
    return {name: getattr(options, name) for name in names}
