"""Many events as tensors, and what is done to them each time they are learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rfserve.export.scaling import Scaling
from rfserve.export.training.floors import Floors
from rfserve.export.training.noise_floor import signal_db, total_db
from rfserve.export.training.plane import Plane
from rfserve.export.training.rss_event import RssEvent, truths_deg
from rfserve.export.training.rss_tensors import LATITUDE, LONGITUDE, NOISE_DB, SNR

UNHEARD = -torch.inf
# Receivers a hundred metres apart are to look different to the layer that tells them apart.
FINER = 5.0
# Receivers a little farther off than those that were learned from are still among them.
REACH_MARGIN = 1.2
# Nothing that a front end measures is more than a hair's breadth on this scale.
UNUSED = 1e9


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """How events are changed while they are learned from, so that no fingerprint is learned by heart.

    `rss_db` is each receiver's own error, `level_db` one of them all (another transmitter, another antenna), and
    `direction_db` one that changes with the bearing from the transmitter (who carries it is in the way): the amplitudes
    of one period in a turn, with half of it for two. `truth_m` is the error of the truth; all standard deviations. A
    share of receivers, uniform up to `receiver_dropout` and new for each event, is not heard; `fewest` are kept. It
    happens to `dropout_share` of the events. Of `strongest_share` of them only the strongest remain, as many as lie
    between the two of `strongest`: not everybody sends all that was received.
    """

    rss_db: float = 1.0
    level_db: float = 1.5
    direction_db: float = 1.5
    truth_m: float = 10.0
    receiver_dropout: float = 0.6
    dropout_share: float = 0.15
    fewest: int = 4
    strongest_share: float = 0.35
    strongest: tuple[int, int] = (6, 12)


@dataclass(frozen=True, kw_only=True, eq=False)
class RssTable:
    """`rss_db` (events, receivers), -inf where nothing was heard; `receivers_m` (events, receivers, 2) and
    `truths_m` (events, 2) to the north and east on a plane. FP32. `floor_db` (events, receivers) is the noise that
    strengths are above, -inf where nobody knows.
    """

    rss_db: Tensor
    receivers_m: Tensor
    truths_m: Tensor
    floor_db: Tensor

    def __len__(self) -> int:
        return len(self.truths_m)

    @classmethod
    def of(cls, events: Sequence[RssEvent], plane: Plane, floors: Floors | None = None) -> "RssTable":
        """The events in their order; with `floors`, every receiver has one at each event's day."""
        width = max(len(e.names) for e in events)
        rss_db = torch.full((len(events), width), UNHEARD)
        receivers, floor_db = torch.zeros(len(events), width, 2), torch.full((len(events), width), UNHEARD)
        for row, event in enumerate(events):
            rss_db[row, : len(event.names)] = torch.from_numpy(event.rss_db)
            receivers[row, : len(event.names)] = torch.from_numpy(plane.metres(event.receivers_deg))
            if floors is not None:
                floor_db[row, : len(event.names)] = torch.tensor([floors[name, event.day] for name in event.names])
        truths = plane.metres(truths_deg(events))
        return cls(rss_db=rss_db, receivers_m=receivers, truths_m=torch.from_numpy(truths).float(), floor_db=floor_db)

    def rows(self, which: Tensor) -> "RssTable":
        """Some events, in the order of `which`."""
        return RssTable(
            rss_db=self.rss_db[which],
            receivers_m=self.receivers_m[which],
            truths_m=self.truths_m[which],
            floor_db=self.floor_db[which],
        )

    def joined(self, other: "RssTable") -> "RssTable":
        """These events and the other's."""
        width = max(self.rss_db.shape[1], other.rss_db.shape[1])
        parts = [table._widened(width) for table in (self, other)]
        return RssTable(
            rss_db=torch.cat([p.rss_db for p in parts]),
            receivers_m=torch.cat([p.receivers_m for p in parts]),
            truths_m=torch.cat([p.truths_m for p in parts]),
            floor_db=torch.cat([p.floor_db for p in parts]),
        )

    def jittered(self, jitter: Jitter, generator: torch.Generator) -> "RssTable":
        """The events as they might have been measured as well."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        count, width = self.rss_db.shape
        share = jitter.receiver_dropout * torch.rand(count, 1, generator=generator)
        share = share * (torch.rand(count, 1, generator=generator) < jitter.dropout_share)
        heard = self.rss_db > UNHEARD
        kept = heard & (torch.rand(count, width, generator=generator) >= share)
        enough = kept.sum(1, keepdim=True) >= jitter.fewest
        error_db = jitter.rss_db * normal(count, width)
        power_db = jitter.level_db * normal(count, 1) + jitter.direction_db * self._directional(generator)
        changed = total_db(signal_db(self.rss_db, self.floor_db) + power_db, self.floor_db)
        # What was measured below the floor is noise, whatever the transmitter sends.
        changed = torch.where(self.rss_db > self.floor_db, changed, self.rss_db) + error_db
        changed = torch.where(torch.where(enough, kept, heard), changed, UNHEARD)
        fewest, most = jitter.strongest
        limit = torch.randint(fewest, most + 1, (count, 1), generator=generator)
        all_of_them = torch.rand(count, 1, generator=generator) >= jitter.strongest_share
        rank = torch.sort(changed, dim=1, descending=True, stable=True).indices.argsort(1)
        return RssTable(
            rss_db=torch.where(all_of_them | (rank < limit), changed, UNHEARD),
            receivers_m=self.receivers_m,
            truths_m=self.truths_m + jitter.truth_m * normal(count, 2),
            floor_db=self.floor_db,
        )

    def inputs(self, scaling: Scaling, receivers: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A network's inputs in the units that `scaling` gives it, with the strongest `receivers` of each event.

        IQ (n, receivers, 2, 1) is zero, ids are 0. It is what `ScaledHeimdall` makes of `rss_tensors.tensors`.
        """
        rss_db, places, mask = self.strongest(receivers)
        features = torch.zeros(*mask.shape, len(scaling.feature_offset))
        features[..., SNR] = torch.where(mask, rss_db - NOISE_DB, 0.0)
        features[..., LATITUDE : LONGITUDE + 1] = places
        features = (features - torch.tensor(scaling.feature_offset)) / torch.tensor(scaling.feature_scale)
        positions = torch.cat([places, torch.zeros(*mask.shape, 1)], -1)
        positions = (positions - torch.tensor(scaling.position_offset)) / torch.tensor(scaling.position_scale)
        iq = torch.zeros(*mask.shape, 2, 1)
        return (
            iq,
            features * mask.unsqueeze(-1),
            positions * mask.unsqueeze(-1),
            torch.zeros_like(mask, dtype=torch.int64),
            mask,
        )

    def targets(self, scaling: Scaling) -> Tensor:
        """The truths (n, 2) in the units that `scaling` gives the network's position."""
        return (self.truths_m - torch.tensor(scaling.target_offset)) / torch.tensor(scaling.target_scale)

    def strongest(self, receivers: int) -> tuple[Tensor, Tensor, Tensor]:
        """Strengths (events, n), places (events, n, 2) and whether heard, of the strongest `receivers` of each."""
        rss_db, order = self.rss_db.topk(min(receivers, self.rss_db.shape[1]), 1)
        places = self.receivers_m.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
        return rss_db, places, rss_db > UNHEARD

    def farthest_middle_m(self, receivers: int) -> float:
        """How far from the plane's origin the mean place of an event's strongest `receivers` is, at most."""
        _, places, heard = self.strongest(receivers)
        middles = (places * heard.unsqueeze(-1)).sum(1) / heard.sum(1, keepdim=True)
        return float(middles.norm(dim=1).max())

    def _directional(self, generator: torch.Generator) -> Tensor:
        """A smooth function of the bearing from the transmitter, another for each event, (events, receivers)."""
        away = self.receivers_m - self.truths_m.unsqueeze(1)
        north, east = (away / away.norm(dim=-1, keepdim=True).clamp(min=1.0)).unbind(-1)
        waves = torch.stack([north, east, (north * north - east * east) / 2, north * east], -1)
        return (waves * torch.randn(len(away), 1, 4, generator=generator)).sum(-1)

    def _widened(self, width: int) -> "RssTable":
        missing = width - self.rss_db.shape[1]
        return RssTable(
            rss_db=torch.nn.functional.pad(self.rss_db, (0, missing), value=UNHEARD),
            receivers_m=torch.nn.functional.pad(self.receivers_m, (0, 0, 0, missing)),
            truths_m=self.truths_m,
            floor_db=torch.nn.functional.pad(self.floor_db, (0, missing), value=UNHEARD),
        )


def learned_scaling(table: RssTable, plane: Plane, *, some: Sequence[int], most: int) -> Scaling:
    """Offsets and scales of what is learned from: means and standard deviations of its `most` strongest receivers.

    The plane's origin becomes the scaling's, and its reach is where the middles of receivers were: of `most`, and
    farther out of `some` (ascending numbers), as the strongest stand around the transmitter. North and east share one
    scale, so that directions stay. Columns that nobody measured (noise density, frequency offset, altitude) are scaled
    away: a served model is given them.
    """
    rss_db, at, heard = table.strongest(most)
    snr = rss_db[heard] - NOISE_DB
    places = at[heard]
    spread_m, away_m = float(places.std()), float(table.truths_m.std())
    north, east = (float(v) for v in table.truths_m.mean(0))
    reach_m = table.farthest_middle_m(most)
    width = at.shape[1]
    reaches = [(float(n), table.farthest_middle_m(n) / reach_m) for n in some if n < width] + [(float(width), 1.0)]
    return Scaling(
        origin=plane.origin_deg,
        metres_per_degree=plane.metres_per_degree,
        features_are_local=True,
        feature_offset=(float(snr.mean()), 0.0, 0.0, 0.0, 0.0, 0.0),
        feature_scale=(float(snr.std()), UNUSED, UNUSED, spread_m / FINER, spread_m / FINER, UNUSED),
        position_scale=(spread_m, spread_m, UNUSED),
        target_offset=(north, east),
        target_scale=(away_m, away_m),
        reach_m=REACH_MARGIN * reach_m,
        reach_by_receivers=tuple(reaches),
    )
