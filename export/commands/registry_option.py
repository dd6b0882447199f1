"""The options that say which MLflow a command works with, and whether it registers there what it publishes."""

import argparse

from rfserve.export.errors import ExportError
from rfserve.export.registry import Registry


def add_to(command: argparse.ArgumentParser) -> None:
    """Give a command `--tracking-uri`, which `Registry.from_options` reads."""
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's tracking server, or a folder for one without a server "
        "(default: MLFLOW_TRACKING_URI, else the folder mlruns)",
    )


def add_register_to(command: argparse.ArgumentParser) -> None:
    """Give a command that publishes `--register` and `--tracking-uri`, which `registry_of` reads."""
    command.add_argument("--register", action="store_true", help="register what was published in MLflow, as candidate")
    add_to(command)


def registry_of(options: argparse.Namespace) -> Registry | None:
    """Where to register what is published, None when that was not asked for.

    `ExportError` for an address without `--register`, `RegistryError` without MLflow: before anything takes minutes.
    """
    if options.register:
        return Registry.from_options(options)
    if options.tracking_uri is not None:
        raise ExportError(f"got --tracking-uri {options.tracking_uri} without --register; give both or neither")
    return None
