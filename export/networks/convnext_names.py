"""torchvision's ConvNeXt parameter names, as Heimdall saves them, to timm's."""

import re

from torch import Tensor

from rfserve.export.errors import CheckpointError

# Channels of the stem and blocks in the third stage tell the four sizes apart.
SIZES = {(96, 9): "tiny", (96, 27): "small", (128, 27): "base", (192, 27): "large"}

_BLOCK = re.compile(r"backbone\.0\.([1357])\.(\d+)\.(.+)")
_DOWNSAMPLE = re.compile(r"backbone\.0\.([246])\.([01])\.(weight|bias)")
_STEM = re.compile(r"backbone\.0\.0\.([01])\.(weight|bias)")
_LAYERS = {"block.0": "conv_dw", "block.2": "norm", "block.3": "mlp.fc1", "block.5": "mlp.fc2"}


def is_torchvision(name: str) -> bool:
    """Whether this is a backbone parameter under its torchvision name."""
    return name.startswith("backbone.0.")


def to_timm(name: str) -> str:
    """`backbone.0.1.0.block.0.weight` to `backbone.stages.0.blocks.0.conv_dw.weight`; other names as they are."""
    if match := _STEM.fullmatch(name):
        return f"backbone.stem.{match[1]}.{match[2]}"
    if match := _DOWNSAMPLE.fullmatch(name):
        return f"backbone.stages.{int(match[1]) // 2}.downsample.{match[2]}.{match[3]}"
    if match := _BLOCK.fullmatch(name):
        stem = f"backbone.stages.{int(match[1]) // 2}.blocks.{match[2]}"
        if match[3] == "layer_scale":
            return f"{stem}.gamma"
        layer, _, kind = match[3].rpartition(".")
        if layer in _LAYERS:
            return f"{stem}.{_LAYERS[layer]}.{kind}"
    return name


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with timm's names; torchvision's layer scale (C, 1, 1) becomes timm's (C)."""
    renamed = {}
    for name, tensor in state.items():
        flat = is_torchvision(name) and name.endswith(".layer_scale") and tensor.dim() == 3
        renamed[to_timm(name)] = tensor.reshape(-1) if flat else tensor
    return renamed


def variant_of(state: dict[str, Tensor]) -> str:
    """Which ConvNeXt a state dict with timm's names holds; `CheckpointError` when none fits."""
    stem = state.get("backbone.stem.0.weight")
    blocks = {n.split(".")[4] for n in state if n.startswith("backbone.stages.2.blocks.")}
    size = (0 if stem is None else int(stem.shape[0]), len(blocks))
    if size not in SIZES:
        known = ", ".join(f"{v} {k}" for k, v in SIZES.items())
        raise CheckpointError(
            f"the checkpoint's backbone has (stem channels, blocks in stage 3) = {size}; expected one of {known}; "
            "give a LocalizationNet checkpoint"
        )
    return SIZES[size]
