"""The options that say which model locates the events, what is known of their receivers, and what if one fails."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfserve.clients import receivers
from rfserve.clients.alignment import align, require_limits
from rfserve.clients.event import Event, Screen
from rfserve.clients.receiver_checks import SKEW_LIMIT_S
from rfserve.clients.receivers import Receivers
from rfserve.clients.recording import read_event
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
    command.add_argument(
        "--skew-limit-s",
        type=float,
        default=SKEW_LIMIT_S,
        help="how far a recording may start from the median of all (default: %(default)s)",
    )
    command.add_argument(
        "--minimum-receivers",
        type=int,
        metavar="N",
        help="leave out receivers that fail, with a warning, while N remain (default: one that fails is an error)",
    )
    command.add_argument("--confidence", type=confidence, default=0.95, help="of the ellipse (default: %(default)s)")


def require(options: argparse.Namespace) -> None:
    """`ClientError` for an option that no event could be read with: found at each, it would be that event's fault."""
    require_limits(options.start_s, options.skew_limit_s)
    Screen(options.minimum_receivers)


def receivers_of(options: argparse.Namespace) -> Receivers | None:
    """The receivers file, read; None when none was given."""
    return None if options.receivers is None else receivers.read(options.receivers)


def axis_of(options: argparse.Namespace) -> Axis:
    """How many samples the model takes."""
    return MEL_RAW_SAMPLES if options.model == "locate_spectrogram" else RAW_SAMPLES


def read(options: argparse.Namespace, paths: Sequence[Path], known: Receivers | None) -> Event:
    """The event of these recordings; the errors of `read_event` and `align`."""
    screen = Screen(options.minimum_receivers)
    recordings = read_event(paths, receivers=known, drop=screen.drop if screen.is_tolerant else None)
    if not recordings:
        screen.require(0)
    return align(
        recordings,
        start_s=options.start_s,
        samples=axis_of(options),
        skew_limit_s=options.skew_limit_s,
        screen=screen,
    )


def confidence(text: str) -> float:
    """A number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected between 0 and 1")
    return value
