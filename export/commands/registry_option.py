"""The option that says which MLflow a command works with."""

import argparse


def add_to(command: argparse.ArgumentParser) -> None:
    """Give a command `--tracking-uri`, which `Registry.from_options` reads."""
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's tracking server, or a folder for one without a server "
        "(default: MLFLOW_TRACKING_URI, else the folder mlruns)",
    )
