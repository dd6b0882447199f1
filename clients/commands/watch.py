"""`rfserve-client watch`: each event that arrives in a folder to a fix, once, whatever happens in between."""

import argparse
import contextlib
import hashlib
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rfserve.clients.commands import event_options, server_options
from rfserve.clients.errors import ClientError
from rfserve.clients.fix import Fix
from rfserve.clients.plain_text import one_line, percent
from rfserve.clients.watch import folder
from rfserve.clients.watch.folder import Arrival, Rules
from rfserve.clients.watch.journal import Journal
from rfserve.clients.watch.leftovers import Leftovers
from rfserve.clients.watch.watcher import Pace, Watcher

STATE = "rfserve-fixes.jsonl"
# Between two looks for what is never located, in times that files take to settle: such a look looks at everything.
PATIENCE = 10


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    watch = commands.add_parser(
        "watch",
        help="locate each event that arrives in a folder, once",
        description="An event is a SigMF collection or archive, or a subfolder of recordings.",
    )
    watch.add_argument("folder", type=Path, metavar="DIR")
    watch.add_argument("--once", action="store_true", help="locate what is there, and end: 1 when something failed")
    watch.add_argument("--pattern", default="*", metavar="GLOB", help="names in DIR that count (default: all)")
    watch.add_argument(
        "--group",
        type=_rule,
        metavar="REGEX",
        help="recordings directly in DIR whose names give its first group the same text are one event",
    )
    watch.add_argument(
        "--least-receivers", type=int, default=1, metavar="N", help="an event has (default: %(default)s)"
    )
    watch.add_argument("--settle-s", type=_seconds, default=2.0, help="files unchanged so long (default: %(default)s)")
    watch.add_argument("--poll-s", type=_seconds, default=1.0, help="between looks (default: %(default)s)")
    watch.add_argument(
        "--state", type=Path, metavar="FILE.jsonl", help=f"results, and what was done (default: DIR/{STATE})"
    )
    watch.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    watch.add_argument("--output", choices=("text", "jsonl"), default="text", help="default: %(default)s")
    event_options.add_to(watch)
    server_options.add_to(watch, priority="bulk")
    watch.set_defaults(run=_watch)


def _watch(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise ClientError(f"{options.folder} is no folder; expected the one that events arrive in")
    event_options.require(options)
    rules = Rules(pattern=options.pattern, group=options.group, least_receivers=options.least_receivers)
    journal = Journal(options.state or options.folder / STATE)
    with (
        contextlib.closing(journal),
        server_options.client_of(options, options.model) as client,
        _stopped_by_signals() as stop,
    ):
        if options.retry_failed and (forgotten := journal.forget_failed()):
            _warn(f"tries again {forgotten} events that failed")
        patience_s = 0.0 if options.once else PATIENCE * options.settle_s
        leftovers = Leftovers(options.folder, rules, journal, patience_s=patience_s, warn=_warn)

        def scan() -> list[Arrival]:
            leftovers.look()
            return folder.scan(options.folder, rules, journal.has_fix)

        watcher = Watcher(
            scan=scan,
            locate=_locator(options, client),
            journal=journal,
            pace=Pace(poll_s=options.poll_s, settle_s=options.settle_s),
            tell=_tell(options),
            warn=_warn,
        )
        if not options.once:
            watcher.run(stop)
            return 0
        for arrival in watcher.run_once(stop):
            reason = f"lacks {', '.join(arrival.missing)}" if arrival.missing else "is changing"
            _warn(
                f"{arrival.name} waits: {reason if watcher.away is None or arrival.missing else 'the server is away'}"
            )
        return int(watcher.failed > 0 or watcher.away is not None)


def _locator(options: argparse.Namespace, client: server_options.Client) -> Callable[[Arrival, str], dict[str, Any]]:
    known = event_options.receivers_of(options)

    def locate(arrival: Arrival, stamp: str) -> dict[str, Any]:
        observations = event_options.read(options, arrival.recordings, known)
        # The same event asked again, after a crash, is the same request.
        request_id = hashlib.sha256(f"{arrival.name}\0{stamp}".encode(errors="replace")).hexdigest()[:32]
        fix = client.locate(observations, request_id=request_id)
        return {"fix": fix.to_dict()}

    return locate


def _tell(options: argparse.Namespace) -> Callable[[dict[str, Any]], None]:
    def tell(line: dict[str, Any]) -> None:
        if options.output == "jsonl":
            text = json.dumps(line)
        elif line["outcome"] == "fix":
            fix = Fix.from_dict(line["fix"])
            shape = fix.ellipse(options.confidence)
            text = (
                f"{line['at']} {line['event']}: {fix.latitude_deg:.6f}°, {fix.longitude_deg:.6f}°  "
                f"{percent(options.confidence)} ellipse "
                f"{shape.semi_north_m:.0f} m north, {shape.semi_east_m:.0f} m east  "
                f"{len(fix.receivers)} receivers  {fix.model} version {fix.model_version}"
                f"{f'  received {fix.start_utc}' if fix.start_utc else ''}"
            )
            text = "  ".join([text, *(f"{what}: {why}" for what, why in fix.caveats)])
        else:
            text = f"{line['at']} {line['event']}: failed: {one_line(line['reason'])}"
        print(text, flush=True)

    return tell


def _warn(text: str) -> None:
    # What gRPC says may have several lines.
    print(one_line(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _rule(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a regular expression ({error})") from error


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}; expected 0 or more seconds")
    return value
