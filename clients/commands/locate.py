"""`rfserve-client locate`: the recordings of one event to a fix."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rfserve.clients import map_page
from rfserve.clients.alignment import align
from rfserve.clients.client import LocalizationClient
from rfserve.clients.commands import server_options
from rfserve.clients.errors import ClientError, PositionInvalid
from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import distance_m
from rfserve.clients.observation import check_position
from rfserve.clients.recording import read_event
from rfserve.export.spec import ENSEMBLES
from rfserve.export.spec.models.iq_features import RAW_SAMPLES
from rfserve.export.spec.models.mel_features import MEL_RAW_SAMPLES


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    locate = commands.add_parser("locate", help="locate the emitter of a SigMF event")
    locate.add_argument(
        "recordings", nargs="+", type=Path, metavar="RECORDING", help=".sigmf-collection or .sigmf-meta"
    )
    locate.add_argument("--model", choices=sorted(ENSEMBLES), default="locate", help="default: %(default)s")
    locate.add_argument("--output", choices=("text", "json", "geojson"), default="text", help="default: %(default)s")
    locate.add_argument("--map", type=Path, metavar="FILE.html", help="write a map that needs no network")
    locate.add_argument("--confidence", type=_confidence, default=0.95, help="of the ellipse (default: %(default)s)")
    locate.add_argument("--start-s", type=float, default=0.0, help="begin so long after the first common instant")
    locate.add_argument("--truth", type=_place, metavar="LAT,LON", help="print how far the fix is from there")
    locate.add_argument("--note", help="a line for the map")
    server_options.add_to(locate)
    locate.set_defaults(run=_locate)


def _locate(options: argparse.Namespace) -> int:
    axis = MEL_RAW_SAMPLES if options.model == "locate_spectrogram" else RAW_SAMPLES
    observations = align(read_event(options.recordings), start_s=options.start_s, samples=axis)
    with LocalizationClient(model=options.model, **server_options.connection_of(options)) as client:
        fix = client.locate(observations)
    if options.output == "json":
        print(fix.to_json())
    elif options.output == "geojson":
        print(json.dumps(fix.to_geojson(options.confidence), indent=2))
    else:
        print(_text(fix, options.confidence, [o.name for o in observations], options.truth))
    if options.map is not None:
        page = map_page.render(
            fix, observations, confidence=options.confidence, truth=options.truth, note=options.note or ""
        )
        try:
            options.map.write_text(page, encoding="utf-8")
        except OSError as error:
            raise ClientError(f"cannot write the map {options.map}: {error}") from error
        print(f"map: {options.map}", file=sys.stderr)
    return 0


def _text(fix: Fix, confidence: float, names: list[str], truth: tuple[float, float] | None) -> str:
    shape = fix.ellipse(confidence)
    timings = ", ".join(f"{k} {v:.1f} ms" for k, v in fix.timings_ms.items())
    lines = [
        f"fix        {fix.latitude_deg:.6f}°, {fix.longitude_deg:.6f}°  (WGS 84 latitude, longitude)",
        f"sigma      {fix.sigma_north_m:.1f} m north, {fix.sigma_east_m:.1f} m east",
        f"ellipse    {shape.semi_north_m:.1f} m north, {shape.semi_east_m:.1f} m east at {confidence:.0%}",
        f"receivers  {', '.join(names)}",
        f"model      {fix.model} version {fix.model_version}",
        f"took       {timings}",
    ]
    if truth is not None:
        away_m = distance_m((fix.latitude_deg, fix.longitude_deg), truth)
        lines.append(f"error      {away_m:.0f} m from {truth[0]:.6f}°, {truth[1]:.6f}°")
    return "\n".join(lines)


def _place(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
        check_position("--truth", latitude, longitude)
    except (ValueError, PositionInvalid) as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected latitude,longitude in degrees ({error})") from error
    return latitude, longitude


def _confidence(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected between 0 and 1")
    return value
