"""HeimdallNetPro's set aggregator: linear attention between the receivers (Performer).

Choromanski et al. 2021, https://arxiv.org/abs/2009.14794, with the generalized kernel
phi(x) = ReLU(x P^T / d^(1/4)) + 1e-3, where P is the projection matrix.
"""

import torch
from torch import Tensor, nn

from rfserve.export.networks.receiver_encoder import WIDTH
from rfserve.export.networks.selection import where

HEADS = 8
HEAD_WIDTH = 64
KERNEL_FLOOR = 1e-3


class FastAttention(nn.Module):
    """The kernel's random projection: a buffer (64, 64) that belongs to the checkpoint."""

    projection_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection_matrix", torch.empty(HEAD_WIDTH, HEAD_WIDTH))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw orthogonal rows with the norms of Gaussian ones, as the paper does."""
        rows = torch.linalg.qr(torch.randn(HEAD_WIDTH, HEAD_WIDTH)).Q.T
        norms = torch.randn(HEAD_WIDTH, HEAD_WIDTH).norm(dim=1, keepdim=True)
        self.projection_matrix.copy_(rows * norms)

    def forward(self, x: Tensor) -> Tensor:
        """Kernel features of (…, 64)."""
        return torch.relu((HEAD_WIDTH**-0.25 * x) @ self.projection_matrix.T) + KERNEL_FLOOR


class SelfAttention(nn.Module):
    """Linear attention of `n` receivers with canonical padding."""

    def __init__(self) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.fast_attention = FastAttention()
        self.to_q = nn.Linear(WIDTH, inner, bias=False)
        self.to_k = nn.Linear(WIDTH, inner, bias=False)
        self.to_v = nn.Linear(WIDTH, inner, bias=False)
        self.to_out = nn.Linear(inner, WIDTH)

    def forward(self, x: Tensor, active: Tensor, pad: Tensor, pads: Tensor) -> Tensor:
        """Attend within (batch, n, 256); `pad` (256) is a padded slot, `pads` (batch) how many of them there are.

        The mask takes a padded slot's value away but not its key, so `pads` times that key stays in the normaliser.
        """

        def heads(y: Tensor) -> Tensor:
            return y.reshape(*y.shape[:-1], HEADS, HEAD_WIDTH).transpose(-3, -2)

        kept = active.unsqueeze(1).unsqueeze(-1)
        q = self.fast_attention(heads(self.to_q(x)))
        k = self.fast_attention(heads(self.to_k(x)))
        k = where(kept, k, 0.0)
        v = heads(self.to_v(x))
        v = where(kept, v, 0.0)
        pad_key = self.fast_attention(self.to_k(pad).reshape(1, HEADS, HEAD_WIDTH))
        keys = k.sum(2) + pads.reshape(-1, 1, 1) * pad_key
        normaliser = (q * keys.unsqueeze(2)).sum(-1, keepdim=True)
        mixed = (q @ (k.transpose(-2, -1) @ v)) / normaliser
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class SetAttention(nn.Module):
    """Vectors (batch, receivers, 256) and mask (batch, receivers) to (batch, 256)."""

    def __init__(self, *, max_receivers: int) -> None:
        super().__init__()
        self.max_receivers = max_receivers
        self.pre_norm = nn.LayerNorm(WIDTH)
        self.attention = SelfAttention()
        self.post_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, active: Tensor, pad: Tensor) -> Tensor:
        """Attend and pool; `pad` (1, 256) is the encoding of a padded slot."""
        kept = active.unsqueeze(-1)
        x = where(kept, x, 0.0)
        count = kept.sum(1).to(x.dtype)
        pads = (self.max_receivers - count.squeeze(-1)).clamp(min=0)
        attended = self.attention(self.pre_norm(x), active, self.pre_norm(pad), pads)
        out = self.post_norm(attended + x)
        highest = where(kept, out, -torch.inf).amax(1)
        mean = where(kept, out, 0.0).sum(1) / count.clamp(min=1)
        return (highest + mean) / 2
