"""The command-line options that say how recordings become an event, and what becomes of one that fails."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rfserve.clients.alignment import align
from rfserve.clients.event import Event, Screen
from rfserve.clients.receiver_checks import SKEW_LIMIT_S
from rfserve.clients.recording import read_event
from rfserve.export.spec.models.iq_features import RAW_SAMPLES
from rfserve.export.spec.models.mel_features import MEL_RAW_SAMPLES


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add them to a command that also has `--model`."""
    parser.add_argument("--start-s", type=float, default=0.0, help="begin so long after the first common instant")
    parser.add_argument(
        "--skew-limit-s",
        type=float,
        default=SKEW_LIMIT_S,
        help="how far a recording may start from the median of all (default: %(default)s)",
    )
    parser.add_argument(
        "--minimum-receivers",
        type=int,
        metavar="N",
        help="leave out receivers that fail, with a warning, while N remain (default: one that fails is an error)",
    )


def read(options: argparse.Namespace, paths: Sequence[Path]) -> Event:
    """The event of these recordings; the errors of `read_event` and `align`."""
    axis = MEL_RAW_SAMPLES if options.model == "locate_spectrogram" else RAW_SAMPLES
    screen = Screen(options.minimum_receivers)
    recordings = read_event(paths, drop=screen.drop if screen.is_tolerant else None)
    if not recordings:
        screen.require(0)
    return align(recordings, start_s=options.start_s, samples=axis, skew_limit_s=options.skew_limit_s, screen=screen)
