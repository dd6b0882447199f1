"""The options that say which measured events are learned from and which are held out."""

import argparse
import importlib.util
from pathlib import Path

from rfserve.export.errors import DataError
from rfserve.export.training import powder
from rfserve.export.training.split import CELL_M, FOLDS, Split, by_day, by_place, everything


def add_to(command: argparse.ArgumentParser, *, may_hold_nothing: bool = False) -> None:
    """Give a command the options that `split_of` reads; `may_hold_nothing` adds one to learn from all."""
    command.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="POWDER RSS events: .csv, .json or their folder"
    )
    group = command.add_argument_group("what is held out", "never at random: events of one walk are seconds apart")
    group.add_argument("--fold", type=int, default=0, metavar="N", help=f"of {FOLDS}, by place (default: %(default)s)")
    group.add_argument(
        "--cell-m", type=float, default=CELL_M, metavar="N", help="a place's side (default: %(default)s)"
    )
    group.add_argument("--since", metavar="YYYY-MM-DD", help="these days instead of places")
    if may_hold_nothing:
        group.add_argument(
            "--everything", action="store_true", help="nothing: for weights to ship, when folds have shown the accuracy"
        )


def require_extra() -> None:
    """`DataError` unless what learns from events is installed."""
    missing = [
        name for name in ("lightning", "matplotlib", "scipy", "sklearn") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise DataError(f"{', '.join(missing)} not installed; pip install 'rfserve[training]'")


def split_of(options: argparse.Namespace) -> Split:
    """The split that they name; `DataError` when the data cannot be read or split so."""
    events = powder.read(options.data)
    if getattr(options, "everything", False):
        return everything(events)
    if options.since is not None:
        return by_day(events, since=options.since)
    if options.cell_m <= 0:
        raise DataError(f"--cell-m: got {options.cell_m}; expected above 0")
    return by_place(events, fold=options.fold, cell_m=options.cell_m)
