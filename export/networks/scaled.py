"""A network with its scaling around it: physical units in, degrees and metres out."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from rfserve.export.errors import ScalingError
from rfserve.export.networks.heimdall_net import HeimdallBase
from rfserve.export.networks.localization_net import LocalizationNet
from rfserve.export.networks.selection import where
from rfserve.export.scaling import RECEIVERS, Pairs, Scaling

# Beyond this it makes no difference how much farther.
FARTHEST_M = 1e6


def _wrapped(longitude_deg: Tensor) -> Tensor:
    """Degrees into -180..180, so that receivers on both sides of the antimeridian are neighbours."""
    return longitude_deg - 360.0 * torch.round(longitude_deg / 360.0)


def _active_mean(x: Tensor, mask: Tensor) -> Tensor:
    """(batch, receivers, 3) to the mean of the active receivers (batch, 3); 0 without one."""
    kept = mask.unsqueeze(-1)
    return where(kept, x, 0.0).sum(1) / kept.sum(1).to(x.dtype).clamp(min=1)


def by_receivers(value: Tensor, pairs: Pairs, mask: Tensor) -> Tensor:
    """A value (batch, n) by how many receivers are active, as `Scaling.uncertainty_by_receivers` is."""
    if not pairs:
        return value
    count = mask.sum(1, keepdim=True).to(torch.float32)
    factor = torch.full_like(count, pairs[0][1])
    for (few, before), (many, after) in pairwise(pairs):
        factor = factor + (after - before) * ((count - few) / (many - few)).clamp(min=0.0, max=1.0)
    return value * factor


class _Scaled(nn.Module):
    """Holds the scaling's figures as constants and turns the network's answer into degrees and metres."""

    feature_offset: Tensor
    feature_scale: Tensor
    position_offset: Tensor
    position_scale: Tensor
    target_offset: Tensor
    target_scale: Tensor
    uncertainty_scale: Tensor
    metres_per_degree: Tensor
    fixed_origin: Tensor

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling
        for name in ("feature_offset", "feature_scale", "position_offset", "position_scale"):
            self.register_buffer(name, torch.tensor(getattr(scaling, name)), persistent=False)
        for name in ("target_offset", "target_scale", "uncertainty_scale", "metres_per_degree"):
            self.register_buffer(name, torch.tensor(getattr(scaling, name)), persistent=False)
        fixed = scaling.origin if isinstance(scaling.origin, tuple) else (0.0, 0.0)
        self.register_buffer("fixed_origin", torch.tensor(fixed), persistent=False)

    def _answer(self, position: Tensor, uncertainty: Tensor, origin: Tensor | None) -> tuple[Tensor, Tensor]:
        scaling = self.scaling
        if scaling.target_scale != (1.0, 1.0) or scaling.target_offset != (0.0, 0.0):
            position = position * self.target_scale + self.target_offset
            uncertainty = uncertainty * self.target_scale
        if scaling.uncertainty_scale != (1.0, 1.0):
            uncertainty = uncertainty * self.uncertainty_scale
        if origin is not None:
            position = origin + position / self.metres_per_degree
            position = torch.stack([position[:, 0], _wrapped(position[:, 1])], -1)
        return position, uncertainty


class ScaledHeimdall(_Scaled):
    """A HeimdallNet in physical units; inputs in the order of its spec."""

    def forward(
        self, iq_data: Tensor, features: Tensor, receiver_positions: Tensor, receiver_ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `HeimdallBase.forward`, with degrees and metres in and out."""
        origin, features, positions = self._localised(features, receiver_positions, mask)
        beyond = self._beyond_reach(positions, mask)
        if not self.scaling.is_identity:
            features = (features - self.feature_offset) / self.feature_scale
            positions = (positions - self.position_offset) / self.position_scale
        position, uncertainty = self.network(iq_data, features, positions, receiver_ids, mask)
        position, uncertainty = self._answer(position, uncertainty, origin)
        uncertainty = by_receivers(uncertainty, self.scaling.uncertainty_by_receivers, mask)
        if beyond is not None:
            uncertainty = (uncertainty * uncertainty + beyond * beyond).sqrt()
        return position, uncertainty

    def _beyond_reach(self, positions: Tensor, mask: Tensor) -> Tensor | None:
        """(batch, 1): metres from the receivers' mean to where such receivers were learned from; 0 within."""
        scaling = self.scaling
        if scaling.reach_m is None:
            return None
        mean = _active_mean(positions, mask)
        away = (mean[:, :1] ** 2 + mean[:, 1:2] ** 2).sqrt()
        reach = by_receivers(torch.full_like(away, scaling.reach_m), scaling.reach_by_receivers, mask)
        return (away - reach).clamp(min=0.0, max=FARTHEST_M)

    def _localised(self, features: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Origin in degrees, (batch, 2) or fixed (2), and features and positions with coordinates in metres from it."""
        if self.scaling.origin is None:
            return None, features, positions
        origin = self._origin(positions, mask)
        local = self._metres(positions, origin)
        if self.scaling.features_are_local:
            features = torch.cat([features[..., :3], self._metres(features[..., 3:], origin)], -1)
        # Cut out of `origin`, the fixed one becomes INT32 in coremltools.
        return self.fixed_origin if isinstance(self.scaling.origin, tuple) else origin[:, :2], features, local

    def _origin(self, positions: Tensor, mask: Tensor) -> Tensor:
        """(batch, 3): the fixed origin, or the active receivers' mean; the mean altitude in both cases."""
        # FP32 holds degrees to about half a metre but differences of neighbours exactly: average those.
        reference = where(mask.unsqueeze(-1), positions, -1e9).amax(1)
        apart = positions - reference.unsqueeze(1)
        apart = torch.cat([apart[..., :1], _wrapped(apart[..., 1:2]), apart[..., 2:]], -1)
        mean = reference + _active_mean(apart, mask)
        if not isinstance(self.scaling.origin, tuple):
            return mean
        return torch.cat([self.fixed_origin.expand_as(mean[:, :2]), mean[:, 2:]], -1)

    def _metres(self, coordinates: Tensor, origin: Tensor) -> Tensor:
        """(batch, receivers, 3) degrees and metres to metres north, east and up from `origin` (batch, 3)."""
        apart = coordinates - origin.unsqueeze(1)
        north = apart[..., :1] * self.metres_per_degree[0]
        east = _wrapped(apart[..., 1:2]) * self.metres_per_degree[1]
        return torch.cat([north, east, apart[..., 2:]], -1)


class ScaledLocalization(_Scaled):
    """LocalizationNet in physical units."""

    def forward(self, mel_spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        """As `LocalizationNet.forward`, with degrees and metres out."""
        position, uncertainty = self.network(mel_spectrogram)
        if self.scaling.origin is None:
            return self._answer(position, uncertainty, None)
        return self._answer(position, uncertainty, self.fixed_origin)


def in_physical_units(name: str, network: nn.Module, scaling: Scaling) -> nn.Module:
    """The network of a served model with its scaling around it, in evaluation mode.

    `ScalingError` when this model cannot have this scaling.
    """
    if isinstance(network, HeimdallBase):
        return ScaledHeimdall(network, scaling).eval()
    if isinstance(network, LocalizationNet):
        if scaling.origin == RECEIVERS:
            raise ScalingError(f"{name} sees no receiver positions; expected a fixed origin or null, got {RECEIVERS!r}")
        if scaling.uncertainty_by_receivers:
            raise ScalingError(f"{name} sees no receivers; leave uncertainty_by_receivers out")
        return ScaledLocalization(network, scaling).eval()
    if not scaling.is_identity:
        raise ScalingError(f"{name} has no weights and takes no scaling; leave it out")
    return network.eval()
