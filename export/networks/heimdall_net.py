"""HeimdallNet (Heimdall 1.0): several receivers' IQ, features, positions and ids to one position."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfserve.export.networks.geometry_encoder import GeometryEncoder
from rfserve.export.networks.iq_encoder import MBCONV
from rfserve.export.networks.receiver_encoder import WIDTH, ActiveRows, ReceiverEncoder, finite, norm_block
from rfserve.export.networks.selection import where
from rfserve.export.networks.set_pooling import SetPooling
from rfserve.export.spec.models.heimdall_net import CALIBRATIONS, MAX_RECEIVERS


class HeimdallBase(nn.Module):
    """What the two HeimdallNets share; the set aggregator is the subclass's.

    The result of a row depends on its active receivers only: not on their order, on the number of padded slots or on
    what stands in them (canonical padding: as Heimdall's, with masked slots up to `max_receivers`). More active
    receivers than that have no padding. A row with no active receiver, more than `MAX_RECEIVERS` of them, a
    non-finite number or an id that is not below `max_receivers` gives NaN for itself alone, and no operator fails.
    """

    def __init__(self, *, max_receivers: int = CALIBRATIONS, order: str = MBCONV) -> None:
        super().__init__()
        self.max_receivers = max_receivers
        self.receiver_encoder = ReceiverEncoder(max_receivers=max_receivers, order=order)
        self.geometry_encoder = GeometryEncoder()
        self.global_fusion = norm_block(2 * WIDTH, WIDTH)
        self.position_head = nn.Linear(WIDTH, 2)
        self.uncertainty_head = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(
        self, iq_data: Tensor, features: Tensor, positions: Tensor, receiver_ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Locate each row.

        `iq_data` (batch, receivers, 2, samples), `features` (batch, receivers, 6), `positions` (batch, receivers, 3),
        `receiver_ids` (batch, receivers) INT64, `mask` (batch, receivers) BOOL, True = active; all in the units the
        network was trained on. Returns position (batch, 2) and uncertainty (batch, 2) in those units.
        """
        rows = ActiveRows(mask)
        iq, row_features = rows.gather(iq_data), rows.gather(features)
        ids = rows.gather(receiver_ids)
        known = ids.clamp(0, self.max_receivers - 1)
        sound = finite(iq) & finite(row_features) & finite(rows.gather(positions)) & (known == ids)
        count = mask.sum(1)
        usable = (rows.scatter(sound) | ~mask).all(1) & (count > 0) & (count <= MAX_RECEIVERS)
        aggregated = self._encode_and_aggregate(rows, iq, row_features, known, mask)
        fused = self.global_fusion(torch.cat([aggregated, self.geometry_encoder(positions, mask)], -1))
        position = self.position_head(fused)
        uncertainty = F.softplus(self.uncertainty_head(fused))
        kept = usable.unsqueeze(-1)
        return where(kept, position, torch.nan), where(kept, uncertainty, torch.nan)

    def _encode_and_aggregate(
        self, rows: ActiveRows, iq: Tensor, features: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        raise NotImplementedError


class HeimdallNet(HeimdallBase):
    """HeimdallNet: masked pooling. 2,001,417 parameters and buffers as Heimdall saves them."""

    def __init__(self, *, max_receivers: int = CALIBRATIONS, order: str = MBCONV) -> None:
        super().__init__(max_receivers=max_receivers, order=order)
        self.set_aggregator = SetPooling(max_receivers=max_receivers)

    def _encode_and_aggregate(
        self, rows: ActiveRows, iq: Tensor, features: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        encoded = rows.scatter(self.receiver_encoder(iq, features, ids))
        out: Tensor = self.set_aggregator(encoded, mask)
        return out
