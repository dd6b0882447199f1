"""The options that say which model locates the events, and what is known about their receivers."""

import argparse
from pathlib import Path

from rfserve.clients import receivers
from rfserve.clients.receivers import Receivers
from rfserve.export.spec import ENSEMBLES, Axis
from rfserve.export.spec.models.iq_features import RAW_SAMPLES
from rfserve.export.spec.models.mel_features import MEL_RAW_SAMPLES


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options to a command that locates events."""
    command.add_argument("--model", choices=sorted(ENSEMBLES), default="locate", help="default: %(default)s")
    command.add_argument("--start-s", type=float, default=0.0, help="begin so long after the first common instant")
    command.add_argument(
        "--receivers", type=Path, metavar="FILE", help="GeoJSON or CSV: names to ids and positions of receivers"
    )
    command.add_argument("--confidence", type=confidence, default=0.95, help="of the ellipse (default: %(default)s)")


def receivers_of(options: argparse.Namespace) -> Receivers | None:
    """The receivers file, read; None when none was given."""
    return None if options.receivers is None else receivers.read(options.receivers)


def axis_of(options: argparse.Namespace) -> Axis:
    """How many samples the model takes."""
    return MEL_RAW_SAMPLES if options.model == "locate_spectrogram" else RAW_SAMPLES


def confidence(text: str) -> float:
    """A number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected between 0 and 1")
    return value
