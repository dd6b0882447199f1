"""`rfserve-client synthesize`: a synthetic event to try the rest with, or a scene of the simulator."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.clients import synthetic_event
from rfserve.clients.commands import scene_options
from rfserve.clients.simulation import event
from rfserve.clients.synthetic_event import SyntheticEvent

RECEIVERS, SEED = 4, 1


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    synthesize = commands.add_parser("synthesize", help="write a synthetic SigMF event with its truth")
    synthesize.add_argument("folder", type=Path, metavar="DIR")
    heard = synthesize.add_mutually_exclusive_group()
    heard.add_argument("--receivers", type=int, help=f"default: {RECEIVERS}")
    heard.add_argument(
        "--receivers-file",
        type=Path,
        metavar="FILE",
        help="GeoJSON or CSV: a scene with these receivers",
    )
    synthesize.add_argument("--seed", type=int, help=f"default: {SEED}")
    scene_options.add_to(synthesize)
    synthesize.set_defaults(run=_synthesize)


def _synthesize(options: argparse.Namespace) -> int:
    scene = scene_options.scene_of(options)
    if scene is not None:
        print(event.write(scene, options.folder))
        return 0
    receivers = RECEIVERS if options.receivers is None else options.receivers
    seed = SEED if options.seed is None else options.seed
    print(synthetic_event.write(SyntheticEvent(receivers=receivers, seed=seed), options.folder))
    return 0
