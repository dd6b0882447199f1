"""HeimdallNetPro (Heimdall 1.0): HeimdallNet with Performer attention between the receivers."""

import torch
from torch import Tensor

from rfserve.export.networks.heimdall_net import HeimdallBase
from rfserve.export.networks.iq_encoder import MBCONV
from rfserve.export.networks.performer import SetAttention
from rfserve.export.networks.receiver_encoder import ActiveRows
from rfserve.export.spec.models.heimdall_net import CALIBRATIONS


class HeimdallNetPro(HeimdallBase):
    """HeimdallNetPro: a padded slot's key is that of a receiver with id 0 whose IQ and features are zero."""

    def __init__(self, *, max_receivers: int = CALIBRATIONS, order: str = MBCONV) -> None:
        super().__init__(max_receivers=max_receivers, order=order)
        self.set_aggregator = SetAttention(max_receivers=max_receivers)

    def _encode_and_aggregate(
        self, rows: ActiveRows, iq: Tensor, features: Tensor, ids: Tensor, mask: Tensor
    ) -> Tensor:
        # Zero IQ depends on its length through the convolutions' edges, so the slot is encoded at the request's length.
        with_pad = [torch.cat([x, torch.zeros_like(x[:1])]) for x in (iq, features, ids)]
        encoded = self.receiver_encoder(*with_pad)
        out: Tensor = self.set_aggregator(rows.scatter(encoded[:-1]), mask, encoded[-1:])
        return out
