"""The command-line options that say which servers are asked, and how; the same for every command."""

import argparse
import os
from pathlib import Path

from rfserve.clients.client import LocalizationClient
from rfserve.clients.commands.hedged_client import HedgedClient
from rfserve.clients.errors import ClientError
from rfserve.clients.hedging import Hedging
from rfserve.export.spec.queueing import Priority

DEFAULT_URL = "127.0.0.1:8001"
PRIORITIES = {"normal": Priority.NORMAL, "bulk": Priority.BULK}
# Bulk work may wait so long in a queue.
TIMEOUTS_S = {"normal": 10.0, "bulk": 30.0}
Client = LocalizationClient | HedgedClient


def add_to(parser: argparse.ArgumentParser, *, priority: str = "normal") -> None:
    """Add them to a command; `priority` is what its requests have when nothing else is asked for."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("RFSERVE_URL", DEFAULT_URL),
        help=f"gRPC address, or several with commas between them (default: RFSERVE_URL, else {DEFAULT_URL})",
    )
    group.add_argument(
        "--timeout-s",
        type=float,
        default=TIMEOUTS_S[priority],
        help="for a call with its retries (default: %(default)s)",
    )
    group.add_argument(
        "--priority",
        choices=tuple(PRIORITIES),
        default=priority,
        help="in the server's queues: bulk lets all others go first, and may wait (default: %(default)s)",
    )
    group.add_argument("--try-timeout-s", type=float, help="ask the next of several servers after this time")
    group.add_argument("--connections", type=int, default=1, help="to each server (default: %(default)s)")
    group.add_argument(
        "--hedge-after-ms",
        type=float,
        metavar="MS",
        help="ask again, another server if there is one, when no answer has come by then",
    )
    group.add_argument(
        "--unpadded",
        action="store_true",
        help="send the receivers that there are, not ten slots: for three of them, 0.39 instead of 1.31 MB of raw IQ; "
        "requests of other numbers of receivers then share no batch",
    )
    group.add_argument(
        "--shared-memory",
        action="store_true",
        help="hand tensors to a server on this machine without sending them (rfserve-server run --open-shared-memory)",
    )
    group.add_argument(
        "--admin-key-file", type=Path, metavar="FILE", help="the key of a server that opens shared memory only for it"
    )
    group.add_argument("--tls", action="store_true", help="encrypt; trusts the system's roots")
    group.add_argument("--root-certificates", type=Path, metavar="CA.pem", help="encrypt, and trust these")
    group.add_argument("--private-key", type=Path, metavar="KEY.pem", help="for a server that asks who calls")
    group.add_argument("--certificate-chain", type=Path, metavar="CERT.pem", help="goes with --private-key")


def client_of(options: argparse.Namespace, model: str = "locate") -> Client:
    """The client that they ask for, to be used as a context manager; `ClientError` when there can be none such."""
    names = ("url", "timeout_s", "try_timeout_s", "connections")
    tls = ("tls", "root_certificates", "private_key", "certificate_chain")
    given = {name: getattr(options, name) for name in (*names, *tls)}
    given |= {"model": model, "priority": PRIORITIES[options.priority], "pad_receivers": not options.unpadded}
    if options.hedge_after_ms is not None:
        if options.shared_memory:
            raise ClientError(
                "got --hedge-after-ms and --shared-memory; expected one of them: a hedge asks two servers"
            )
        return HedgedClient(hedging=Hedging(after_s=options.hedge_after_ms / 1e3), **given)
    if options.admin_key_file is not None and not options.shared_memory:
        raise ClientError("got --admin-key-file without --shared-memory: nothing else here needs the key")
    return LocalizationClient(shared_memory=options.shared_memory, admin_key=_key(options.admin_key_file), **given)


def _key(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"cannot read the administrator's key {file}: {error}") from error
    if not key:
        raise ClientError(f"{file} holds no key; expected the file that the server's --admin-key-file names")
    return key
