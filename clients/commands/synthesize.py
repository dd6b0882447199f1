"""`rfserve-client synthesize`: a synthetic event to try the rest with, or a scene of the simulator."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.clients import synthetic_event
from rfserve.clients.commands import scene_options
from rfserve.clients.simulation import event
from rfserve.clients.synthetic_event import SyntheticEvent


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    synthesize = commands.add_parser("synthesize", help="write a synthetic SigMF event with its truth")
    synthesize.add_argument("folder", type=Path, metavar="DIR")
    scene_options.add_receivers_to(synthesize)
    scene_options.add_to(synthesize)
    synthesize.set_defaults(run=_synthesize)


def _synthesize(options: argparse.Namespace) -> int:
    if scene_options.asks_for_scene(options):
        print(event.write(scene_options.scene_of(options), options.folder))
        return 0
    given = {name: getattr(options, name) for name in ("receivers", "seed") if getattr(options, name) is not None}
    print(synthetic_event.write(SyntheticEvent(**given), options.folder))
    return 0
