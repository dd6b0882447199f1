"""`rfserve-client synthesize`: a synthetic event to try the rest with."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.clients.synthetic_event import SyntheticEvent, write


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    synthesize = commands.add_parser("synthesize", help="write a small synthetic SigMF event with its truth")
    synthesize.add_argument("folder", type=Path, metavar="DIR")
    synthesize.add_argument("--receivers", type=int, default=4, help="default: %(default)s")
    synthesize.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    synthesize.set_defaults(run=_synthesize)


def _synthesize(options: argparse.Namespace) -> int:
    print(write(SyntheticEvent(receivers=options.receivers, seed=options.seed), options.folder))
    return 0
