"""`rfserve-client`: recordings to a fix, raw tensors to outputs, and a synthetic event to try it with."""

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from rfserve.clients import batch_command, connection_options, event_options, map_page, tensor_file
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ClientError, PositionInvalid
from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import distance_m
from rfserve.clients.observation import check_position
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.export.spec import ENSEMBLES, RfserveError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with the reason on stderr when not."""
    options = _parser().parse_args(arguments)
    try:
        done: int = options.run(options)
    except RfserveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return done


def _locate(options: argparse.Namespace) -> int:
    observations = event_options.read(options, options.recordings)
    with LocalizationClient(model=options.model, **connection_options.from_options(options)) as client:
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
        *(f"left out   {d.name}: {d.reason}" for d in fix.dropped),
        f"model      {fix.model} version {fix.model_version}",
        f"took       {timings}",
    ]
    if truth is not None:
        away_m = distance_m((fix.latitude_deg, fix.longitude_deg), truth)
        lines.append(f"error      {away_m:.0f} m from {truth[0]:.6f}°, {truth[1]:.6f}°")
    return "\n".join(lines)


def _infer(options: argparse.Namespace) -> int:
    try:
        # NumPy leaves a file open that it cannot read, if it opened it itself.
        with options.file.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ClientError(
            f"cannot read {options.file}: {error}; expected an .npz with one array for each input"
        ) from error
    with LocalizationClient(**connection_options.from_options(options)) as client:
        answer, version = client.infer(options.model, arrays)
    if options.output_file is not None:
        try:
            with options.output_file.open("wb") as file:
                np.savez(file, **answer)
        except OSError as error:
            raise ClientError(f"cannot write {options.output_file}: {error}") from error
        print(f"{options.model} version {version}: {options.output_file}", file=sys.stderr)
        return 0
    rows = {name: values.tolist() for name, values in answer.items()}
    print(json.dumps({"model": options.model, "version": version, "outputs": rows}))
    return 0


def _synthesize(options: argparse.Namespace) -> int:
    print(write(SyntheticEvent(receivers=options.receivers, seed=options.seed), options.folder))
    return 0


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-client", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    locate = commands.add_parser("locate", help="locate the emitter of a SigMF event")
    locate.add_argument(
        "recordings", nargs="+", type=Path, metavar="RECORDING", help=".sigmf-collection or .sigmf-meta"
    )
    locate.add_argument("--model", choices=sorted(ENSEMBLES), default="locate", help="default: %(default)s")
    locate.add_argument("--output", choices=("text", "json", "geojson"), default="text", help="default: %(default)s")
    locate.add_argument("--map", type=Path, metavar="FILE.html", help="write a map that needs no network")
    locate.add_argument("--confidence", type=_confidence, default=0.95, help="of the ellipse (default: %(default)s)")
    event_options.add_to(locate)
    locate.add_argument("--truth", type=_place, metavar="LAT,LON", help="print how far the fix is from there")
    locate.add_argument("--note", help="a line for the map")
    locate.set_defaults(run=_locate)

    infer = commands.add_parser("infer", help="send the arrays of an .npz, batch first, to any model")
    infer.add_argument("model")
    infer.add_argument("file", type=Path, metavar="FILE.npz")
    infer.add_argument("--output-file", type=Path, metavar="OUT.npz", help="default: JSON on standard output")
    infer.set_defaults(run=_infer)

    for command in (locate, infer):
        connection_options.add_to(command)

    batch_command.add_to(commands)
    tensor_file.add_to(commands)

    synthesize = commands.add_parser("synthesize", help="write a small synthetic SigMF event with its truth")
    synthesize.add_argument("folder", type=Path, metavar="DIR")
    synthesize.add_argument("--receivers", type=int, default=4, help="default: %(default)s")
    synthesize.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    synthesize.set_defaults(run=_synthesize)
    return parser


if __name__ == "__main__":
    sys.exit(main())
