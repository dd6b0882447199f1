"""The receivers' geometry to one vector: the mean over ordered pairs of encoded distance, bearing and height."""

import torch
from torch import Tensor, nn

from rfserve.export.networks.receiver_encoder import WIDTH, norm_block
from rfserve.export.networks.selection import where


def _encoder(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, 32), nn.GELU(), nn.Linear(32, width_out))


class GeometryEncoder(nn.Module):
    """Positions (batch, receivers, 3) and mask (batch, receivers) to (batch, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.distance_encoder = _encoder(1, 64)
        self.angle_encoder = _encoder(2, 64)
        self.altitude_encoder = _encoder(1, 32)
        self.geometry_aggregator = norm_block(160, WIDTH)

    def forward(self, positions: Tensor, active: Tensor) -> Tensor:
        """Encode the active pairs, the diagonal included (distance 0, bearing 0)."""
        kept = where(active.unsqueeze(-1), positions, 0.0)
        delta = kept.unsqueeze(1) - kept.unsqueeze(2)
        d0, d1, height = delta.unbind(-1)
        # The legacy exporter writes atan2 as atan(y/x), which is 0/0 on the diagonal: use the ratios themselves.
        ground = (d0 * d0 + d1 * d1).sqrt()
        apart = ground > 0
        divisor = where(apart, ground, 1.0)
        cosine = where(apart, d0 / divisor, 1.0)
        distance = (ground * ground + height * height).sqrt()
        pairs = active.unsqueeze(1) & active.unsqueeze(2)
        count = pairs.flatten(1).sum(1, keepdim=True).to(positions.dtype).clamp(min=1)

        def encode(encoder: nn.Sequential, x: Tensor) -> Tensor:
            # The last layer is linear, so it may follow the mean: one row instead of receivers squared.
            hidden = encoder[1](encoder[0](x))
            mean = where(pairs.unsqueeze(-1), hidden, 0.0).sum((1, 2)) / count
            out: Tensor = encoder[2](mean)
            return out

        joined = torch.cat(
            [
                encode(self.distance_encoder, distance.unsqueeze(-1)),
                encode(self.angle_encoder, torch.stack([cosine, d1 / divisor], -1)),
                encode(self.altitude_encoder, height.unsqueeze(-1)),
            ],
            -1,
        )
        out: Tensor = self.geometry_aggregator(joined)
        return out
