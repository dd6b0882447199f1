"""LocalizationNet (Heimdall 1.0): a mel spectrogram to a position, by ConvNeXt and two heads."""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfserve.export.networks.receiver_encoder import finite
from rfserve.export.networks.selection import where

VARIANTS = ("tiny", "small", "base", "large")
SMALLEST_UNCERTAINTY = 0.01
LARGEST_UNCERTAINTY = 1.0


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 2),
    )


class LocalizationNet(nn.Module):
    """ConvNeXt (Liu et al. 2022, https://arxiv.org/abs/2201.03545) without its last LayerNorm, and two heads."""

    def __init__(self, *, variant: str = "large") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant: got {variant!r}; expected one of {', '.join(VARIANTS)}")
        self.backbone = timm.create_model(f"convnext_{variant}", pretrained=False)
        width = int(self.backbone.num_features)
        self.backbone.head = nn.Identity()
        self.position_head = _head(width)
        self.uncertainty_head = _head(width)

    def forward(self, mel_spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        """Locate each row of (batch, 3, 128, 32) FP32: position (batch, 2) and uncertainty (batch, 2), 0.01 to 1.0.

        A row with a non-finite number gives NaN for itself alone.
        """
        pooled = self.backbone.forward_features(mel_spectrogram).mean((2, 3))
        position = self.position_head(pooled)
        uncertainty = F.softplus(self.uncertainty_head(pooled)).clamp(SMALLEST_UNCERTAINTY, LARGEST_UNCERTAINTY)
        kept = finite(mel_spectrogram).unsqueeze(-1)
        return where(kept, position, torch.nan), where(kept, uncertainty, torch.nan)
