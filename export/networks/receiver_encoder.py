"""One receiver's IQ, features and identity to one vector, for active receivers only."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfserve.export.networks.iq_encoder import IqEncoder

FEATURES = 6
WIDTH = 256


def norm_block(width_in: int, width_out: int) -> nn.Sequential:
    """Linear, LayerNorm, GELU."""
    return nn.Sequential(nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.GELU())


def finite(x: Tensor) -> Tensor:
    """Whether the whole of each leading element is finite: (n, …) to (n) BOOL."""
    # A sum carries NaN in every runtime (ONNX Runtime's maximum loses it), and x - x is 0 for finite x only.
    return (x - x).flatten(1).sum(1) == 0


class ReceiverEncoder(nn.Module):
    """Encodes flat rows of receivers; which rows exist is the caller's business."""

    def __init__(self, *, max_receivers: int, order: str) -> None:
        super().__init__()
        self.max_receivers = max_receivers
        self.iq_encoder = IqEncoder(order, WIDTH)
        self.feature_encoder = nn.Sequential(*norm_block(FEATURES, 64), nn.Linear(64, 128))
        self.receiver_embeddings = nn.Embedding(max_receivers, 64)
        self.adaptive_fusion = nn.Sequential(*norm_block(WIDTH + 128 + 64, WIDTH), nn.Linear(WIDTH, WIDTH))
        self.calibration_layers = nn.ModuleDict({str(i): norm_block(WIDTH, WIDTH) for i in range(max_receivers)})

    def forward(self, iq: Tensor, features: Tensor, ids: Tensor) -> Tensor:
        """(n, 2, samples), (n, 6), (n) to (n, 256). Ids must lie in range: the caller clamps and refuses."""
        joined = torch.cat([self.iq_encoder(iq), self.feature_encoder(features), self.receiver_embeddings(ids)], -1)
        return self._calibrate(self.adaptive_fusion(joined), ids)

    def _calibrate(self, x: Tensor, ids: Tensor) -> Tensor:
        """Each row through the layer of its id: all layers in one matrix product, then one is picked.

        Gathering a 256 x 256 matrix for each row moves more memory than computing all ten layers does.
        """
        layers = list(self.calibration_layers.values())
        if all(layer is layers[0] for layer in layers):
            # Training shares one calibration where receivers cannot be told apart.
            shared: Tensor = layers[0](x)
            return shared
        linears = [layer[0] for layer in layers]  # type: ignore[index]
        norms = [layer[1] for layer in layers]  # type: ignore[index]
        every = F.linear(x, torch.cat([m.weight for m in linears]), torch.cat([m.bias for m in linears]))
        pick = torch.arange(x.shape[0], device=x.device) * self.max_receivers + ids
        mine = every.reshape(-1, WIDTH).index_select(0, pick)
        mine = F.layer_norm(mine, (WIDTH,), None, None, norms[0].eps)
        weight = torch.stack([m.weight for m in norms]).index_select(0, ids)
        bias = torch.stack([m.bias for m in norms]).index_select(0, ids)
        return F.gelu(mine * weight + bias)


class ActiveRows:
    """Which of the (batch, receivers) slots are computed, and the way there and back.

    Slot 0 is always computed, so that no operator meets an empty tensor when nothing is active.
    """

    def __init__(self, active: Tensor) -> None:
        self.active = active
        flat = active.flatten()
        first = torch.ones_like(flat[:1])
        computed = torch.cat([first, flat[1:]])
        self._rows = computed.nonzero().squeeze(1)
        self._slots = computed.to(torch.int64).cumsum(0) - 1

    def gather(self, x: Tensor) -> Tensor:
        """(batch, receivers, …) to (rows, …)."""
        return x.flatten(0, 1).index_select(0, self._rows)

    def scatter(self, rows: Tensor) -> Tensor:
        """(rows, …) to (batch, receivers, …); what stands in an inactive slot means nothing."""
        spread = rows.index_select(0, self._slots)
        return spread.reshape(*self.active.shape, *rows.shape[1:])
