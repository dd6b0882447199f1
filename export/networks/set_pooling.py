"""HeimdallNet's set aggregator: max, mean and quality-weighted mean over the active receivers."""

import torch
from torch import Tensor, nn

from rfserve.export.networks.receiver_encoder import WIDTH, norm_block
from rfserve.export.networks.selection import where


class SetPooling(nn.Module):
    """Vectors (batch, receivers, 256) and mask (batch, receivers) to (batch, 256)."""

    def __init__(self, *, max_receivers: int) -> None:
        super().__init__()
        self.max_receivers = max_receivers
        self.receiver_transform = norm_block(WIDTH, WIDTH)
        self.quality_net = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, 1))
        self.pool_combiner = norm_block(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """Pool the active receivers, as if padded with masked ones to `max_receivers`."""
        kept = active.unsqueeze(-1)
        count = kept.sum(1).to(x.dtype)
        hidden = where(kept, self.receiver_transform(x), 0.0)
        # A padded slot counts as 0 in the maximum, and there is one unless every slot is active.
        highest = where(kept, hidden, -torch.inf).amax(1)
        highest = torch.where(count < self.max_receivers, highest.clamp(min=0), highest)
        quality = self.quality_net(hidden)
        weight = where(kept, quality, -1e30).softmax(1)
        mean = hidden.sum(1) / count.clamp(min=1)
        out: Tensor = self.pool_combiner(torch.cat([highest, mean, (weight * hidden).sum(1)], -1))
        return out
