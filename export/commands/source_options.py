"""The options that say where a network's weights come from."""

import argparse
from pathlib import Path

from rfserve.export.networks.iq_encoder import ENCODER_ORDERS
from rfserve.export.publication import Source


def add_to(command: argparse.ArgumentParser) -> None:
    """Give a command the options that `source_of` reads."""
    command.add_argument("--checkpoint", type=Path, help="state dict (.pt, .pth), Lightning .ckpt or .safetensors")
    command.add_argument("--variant", help="size of LocalizationNet (default: the checkpoint's, else large)")
    command.add_argument(
        "--encoder-order",
        choices=ENCODER_ORDERS,
        help="IQ encoder of a HeimdallNet (default: what the checkpoint says, else heimdall-1.0; new weights: mbconv)",
    )
    command.add_argument("--scaling", type=Path, help="JSON file with the scaling used in training")
    command.add_argument("--seed", type=int, default=0, help="of the random weights when there is no checkpoint")


def source_of(options: argparse.Namespace) -> Source:
    """Where the weights come from, as the options say."""
    return Source(
        checkpoint=options.checkpoint,
        variant=options.variant,
        encoder_order=options.encoder_order,
        scaling=options.scaling,
        seed=options.seed,
    )
