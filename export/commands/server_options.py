"""The options that say how running servers are controlled: with which key, and over TLS."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.export import live
from rfserve.export.live import Encryption


def add_to(command: Any) -> None:
    """Add them to a command, or to a group of its options."""
    command.add_argument("--admin-key-file", type=Path, metavar="FILE", help="for servers that restrict control")
    command.add_argument("--tls", action="store_true", help="encrypt; trusts the system's roots")
    command.add_argument("--root-certificates", type=Path, metavar="CA.pem", help="encrypt, and trust these")
    command.add_argument("--private-key", type=Path, metavar="KEY.pem", help="for a server that asks who calls")
    command.add_argument("--certificate-chain", type=Path, metavar="CERT.pem", help="goes with --private-key")


def key_of(options: argparse.Namespace) -> str | None:
    """The administrator's key that they name; `LiveServerError` for a file that holds none."""
    return None if options.admin_key_file is None else live.admin_key(options.admin_key_file)


def encryption_of(options: argparse.Namespace, server_name: str | None = None) -> Encryption:
    """What they say of TLS; `LiveServerError` when it does not go together."""
    names = ("tls", "root_certificates", "private_key", "certificate_chain")
    return Encryption(server_name=server_name, **{name: getattr(options, name) for name in names})
