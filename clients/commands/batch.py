"""`rfserve-client batch`: a line of JSON for each of many events, whatever becomes of the others."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rfserve.clients.commands import event_options, server_options
from rfserve.clients.errors import RecordingError
from rfserve.clients.event import Event
from rfserve.clients.formats.sigmf_pair import COLLECTION
from rfserve.clients.receivers import Receivers


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    command = commands.add_parser("batch", help="locate many events, a line of JSON for each")
    command.add_argument(
        "events",
        nargs="+",
        type=Path,
        metavar="EVENT",
        help="SigMF collection, archive or recording, WAV or raw IQ, each an event of its own; a folder stands for the "
        f"{COLLECTION} files in it",
    )
    command.add_argument("--concurrency", type=int, default=4, help="events at a time (default: %(default)s)")
    command.add_argument("--unordered", action="store_true", help="write a line as soon as it is known")
    event_options.add_to(command)
    server_options.add_to(command, priority="bulk")
    command.set_defaults(run=_locate_all)


def _locate_all(options: argparse.Namespace) -> int:
    paths = _events(options.events)
    known = event_options.receivers_of(options)
    sources = [_source(options, path, known) for path in paths]
    failed = 0
    with server_options.client_of(options, options.model) as client:
        outcomes = client.locate_many(
            sources, concurrency=options.concurrency, ordered=not options.unordered, progress=True
        )
        for outcome in outcomes:
            line: dict[str, Any] = {"event": str(paths[outcome.index])}
            if outcome.fix is not None:
                line |= outcome.fix.to_dict()
            else:
                failed += 1
                line |= {"error": type(outcome.error).__name__, "reason": str(outcome.error)}
            print(json.dumps(line), flush=True)
    if failed:
        print(f"{failed} of {len(paths)} events have no fix; their lines say why", file=sys.stderr)
    return 1 if failed else 0


def _source(options: argparse.Namespace, path: Path, known: Receivers | None) -> Callable[[], Event]:
    return lambda: event_options.read(options, [path], known)


def _events(given: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        inside = sorted(path.rglob(f"*{COLLECTION}")) if path.is_dir() else [path]
        if not inside:
            raise RecordingError(f"{path} holds no {COLLECTION}; give one, or the events themselves")
        found += inside
    return found
