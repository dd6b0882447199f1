"""The option that says which model repository a command works on."""

import argparse
from pathlib import Path

from rfserve.export.repository import Repository


def repository_at(location: str) -> Repository:
    """The repository at a location as users write it."""
    return Repository(Path(location))


def add_to(command: argparse.ArgumentParser) -> None:
    """Give a command `--repository`; its value is a `Repository`."""
    command.add_argument(
        "--repository",
        type=repository_at,
        default="model_repository",
        metavar="FOLDER",
        help="default: %(default)s",
    )
