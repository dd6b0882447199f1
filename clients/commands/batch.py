"""`rfserve-client batch`: a line of JSON for each of many events, whatever becomes of the others."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rfserve.clients.commands import event_options, server_options
from rfserve.clients.errors import RecordingError
from rfserve.clients.event import Event
from rfserve.clients.receivers import Receivers
from rfserve.clients.watch import folder
from rfserve.clients.watch.folder import Arrival, Rules
from rfserve.export.spec.queueing import CLIENT_CONCURRENCY


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    command = commands.add_parser("batch", help="locate many events, a line of JSON for each")
    command.add_argument(
        "events",
        nargs="+",
        type=Path,
        metavar="EVENT",
        help="SigMF collection, archive or recording, WAV or raw IQ, each an event of its own; a folder stands for "
        "the collections and archives in it, and its subfolders of recordings",
    )
    command.add_argument(
        "--concurrency", type=int, default=CLIENT_CONCURRENCY, help="events at a time (default: %(default)s)"
    )
    command.add_argument("--unordered", action="store_true", help="write a line as soon as it is known")
    event_options.add_to(command)
    server_options.add_to(command, priority="bulk")
    command.set_defaults(run=_locate_all)


def _locate_all(options: argparse.Namespace) -> int:
    event_options.require(options)
    events = _events(options.events)
    known = event_options.receivers_of(options)
    sources = [_source(options, arrival, known) for arrival in events.values()]
    names = list(events)
    failed = 0
    with server_options.client_of(options, options.model) as client:
        outcomes = client.locate_many(
            sources, concurrency=options.concurrency, ordered=not options.unordered, progress=True
        )
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                line: dict[str, Any] = {"event": names[outcome.index]}
                if outcome.fix is not None:
                    line |= outcome.fix.to_dict()
                else:
                    failed += 1
                    line |= {"error": type(outcome.error).__name__, "reason": str(outcome.error)}
                print(json.dumps(line), flush=True)
    if failed:
        print(f"{failed} of {len(names)} events have no fix; their lines say why", file=sys.stderr)
    return 1 if failed else 0


def _source(options: argparse.Namespace, arrival: Arrival, known: Receivers | None) -> Callable[[], Event]:
    def read() -> Event:
        if arrival.missing and options.minimum_receivers is None:
            raise RecordingError(f"{arrival.name} lacks {', '.join(arrival.missing)}; complete it, or take it away")
        return event_options.read(options, arrival.recordings, known)

    return read


def _events(given: Sequence[Path]) -> dict[str, Arrival]:
    """The events by their paths; those in folders are the ones that `watch` would find."""
    found: dict[str, Arrival] = {}
    for path in given:
        if not path.is_dir():
            found[str(path)] = Arrival(name=path.name, recordings=(path,), files=(path,))
            continue
        folders = [path, *(p for p in sorted(path.rglob("*")) if p.is_dir() and not _is_hidden(p.relative_to(path)))]
        inside = {str(f / arrival.name): arrival for f in folders for arrival in folder.scan(f, Rules())}
        if not inside:
            raise RecordingError(
                f"{path} holds no collection, archive or subfolder of recordings; give one, or the events themselves"
            )
        found |= dict(sorted(inside.items()))
        for stray in folder.loose(path, Rules(), inside.values())[:1]:
            print(
                f"{stray.relative_to(path)} and the like are no events; name them, or give each a subfolder",
                file=sys.stderr,
            )
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
