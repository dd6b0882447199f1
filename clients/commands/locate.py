"""`rfserve-client locate`: the recordings of one event to a fix."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rfserve.clients import map_page, picture
from rfserve.clients.commands import event_options, server_options
from rfserve.clients.errors import ClientError, PositionInvalid
from rfserve.clients.observation import check_position
from rfserve.clients.outputs.registry import OUTPUTS
from rfserve.clients.outputs.report import Report


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    locate = commands.add_parser("locate", help="locate the emitter of one event")
    locate.add_argument(
        "recordings",
        nargs="+",
        type=Path,
        metavar="RECORDING",
        help="SigMF collection, archive or recordings; WAV; raw IQ with a side file",
    )
    event_options.add_to(locate)
    locate.add_argument("--output", choices=tuple(OUTPUTS), default="text", help="default: %(default)s")
    locate.add_argument("--map", type=Path, metavar="FILE.html", help="write a map that needs no network")
    locate.add_argument("--png", type=Path, metavar="FILE.png", help="write a picture (pip install 'rfserve[png]')")
    locate.add_argument("--truth", type=_place, metavar="LAT,LON", help="print how far the fix is from there")
    locate.add_argument("--note", default="", help="a line for the map")
    server_options.add_to(locate)
    locate.set_defaults(run=_locate)


def _locate(options: argparse.Namespace) -> int:
    if options.png is not None:
        picture.require()
    observations = event_options.read(options, options.recordings, event_options.receivers_of(options))
    with server_options.client_of(options, options.model) as client:
        fix = client.locate(observations)
    report = Report(
        fix=fix, observations=observations, confidence=options.confidence, truth=options.truth, note=options.note
    )
    print(OUTPUTS[options.output](report))
    if options.map is not None:
        _write("map", options.map, map_page.render(report).encode("utf-8"))
    if options.png is not None:
        _write("picture", options.png, picture.render(report))
    return 0


def _write(what: str, path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ClientError(f"cannot write the {what} {path}: {error}") from error
    print(f"{what}: {path}", file=sys.stderr)


def _place(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
        check_position("--truth", latitude, longitude)
    except (ValueError, PositionInvalid) as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected latitude,longitude in degrees ({error})") from error
    return latitude, longitude
