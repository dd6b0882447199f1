"""`rfserve-export pool`: one table of the events that several folds held out."""

import argparse
from pathlib import Path
from typing import Any

from rfserve.export.commands import split_options
from rfserve.export.commands.evaluate import write


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    pool = commands.add_parser("pool", help="one table of evaluations whose held-out events are different ones")
    pool.add_argument("files", nargs="+", type=Path, metavar="FILE", help="that `evaluate --json` wrote, one a fold")
    pool.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    pool.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw there whether ellipses hold what they say")
    pool.set_defaults(run=_pool)


def _pool(options: argparse.Namespace) -> int:
    split_options.require_extra()
    # NumPy and SciPy take a second to import, and most commands need neither.
    import numpy as np  # noqa: PLC0415

    from rfserve.export.training import calibration, pooled  # noqa: PLC0415

    parts = [pooled.read(file) for file in options.files]
    found = pooled.pooled(parts)
    print(f"{found.split}: {len(found.errors.events)} events, baselines learned from {found.learned} or more\n")
    print(found.text())
    if options.json is not None:
        write(found, options.json)
    if options.plot is not None:
        shares = {part.split: np.array(part.inside) for part in parts} | {"all": np.array(found.inside)}
        calibration.draw(shares, options.plot)
    return 0
