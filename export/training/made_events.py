"""Events that nobody measured: places, and what a radio map says that each receiver hears of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rfserve.export.training.noise_floor import METER_DB, Numbers, total_db
from rfserve.export.training.path_loss import NEAREST_M, PathLoss
from rfserve.export.training.rss_table import UNHEARD, RssTable

# At places that it has not seen, signals 6 dB above the noise are a little farther off than normal errors would be: of
# t with 3, 5, 10 degrees of freedom and of the normal, that of 10 makes what was held out likeliest.
TAILS = 10
# Who is on air: the number of a fixed receiver, or -1, its place, and the floor of its noise in dB.
Moment = Sequence[tuple[int, Numbers, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeEvents:
    """Everything that new events are drawn from, FP32 and metres north and east.

    `places_m` (places, 2); `mean_db` and `sigma_db` (places, fixed) of the signals at each fixed receiver. Who was on
    air at a moment: `fixed` (moments, receivers) INT64, -1 for a moving one, at `receivers_m` (moments, receivers, 2),
    above noise at `floor_db` (moments, receivers), where `present` (moments, receivers) BOOL. `moving` is the path loss
    to those that move. What is received below `weakest_db` is not heard, but for the strongest.
    """

    places_m: Tensor
    mean_db: Tensor
    sigma_db: Tensor
    fixed: Tensor
    receivers_m: Tensor
    floor_db: Tensor
    present: Tensor
    moving: PathLoss
    weakest_db: float

    def __len__(self) -> int:
        return len(self.places_m)

    @classmethod
    def of(
        cls,
        places_m: Numbers,
        signals_db: Sequence[tuple[Numbers, Numbers]],
        on_air: Sequence[Moment],
        *,
        moving: PathLoss,
        weakest_db: float,
    ) -> "MadeEvents":
        """From places (places, 2), mean and deviation (places) of each fixed receiver's signals, and who was on air at
        each moment.
        """
        width = max(len(moment) for moment in on_air)
        fixed = torch.full((len(on_air), width), -1)
        receivers = torch.zeros(len(on_air), width, 2)
        floors = torch.full((len(on_air), width), UNHEARD)
        for row, moment in enumerate(on_air):
            for column, (number, place, floor_db) in enumerate(moment):
                fixed[row, column] = number
                receivers[row, column] = torch.from_numpy(place)
                floors[row, column] = floor_db
        counts = torch.tensor([len(moment) for moment in on_air])
        return cls(
            places_m=torch.from_numpy(places_m).float(),
            mean_db=torch.from_numpy(np.stack([mean for mean, _ in signals_db], 1)).float(),
            sigma_db=torch.from_numpy(np.stack([deviation for _, deviation in signals_db], 1)).float(),
            fixed=fixed,
            receivers_m=receivers,
            floor_db=floors,
            present=torch.arange(width) < counts.unsqueeze(1),
            moving=moving,
            weakest_db=weakest_db,
        )

    def draw(self, count: int, generator: torch.Generator) -> RssTable:
        """`count` events, each of any place at any moment, with an error of its own at each receiver."""
        place = torch.randint(len(self.places_m), (count,), generator=generator)
        moment = torch.randint(len(self.fixed), (count,), generator=generator)
        fixed, receivers, truths = self.fixed[moment], self.receivers_m[moment], self.places_m[place]
        error = _errors(fixed.shape, generator)
        moves, known, on_air = fixed < 0, fixed.clamp(min=0), self.present[moment]
        mean = torch.where(moves, path_loss_db(self.moving, receivers, truths), self.mean_db[place].gather(1, known))
        sigma = torch.where(moves, self.moving.sigma_db, self.sigma_db[place].gather(1, known))
        floor_db = self.floor_db[moment]
        meter = METER_DB * torch.randn(fixed.shape, generator=generator)
        rss_db = torch.where(on_air, total_db(mean + sigma * error, floor_db) + meter, UNHEARD)
        strongest = rss_db == rss_db.amax(1, keepdim=True)
        heard = on_air & ((rss_db > self.weakest_db) | strongest)
        return RssTable(
            rss_db=torch.where(heard, rss_db, UNHEARD), receivers_m=receivers, truths_m=truths, floor_db=floor_db
        )


def _errors(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Student's t of `TAILS` degrees of freedom, at the standard deviation 1: a normal one over the root of a chi²."""
    squares = torch.randn((*shape, TAILS), generator=generator).square().sum(-1)
    return torch.randn(shape, generator=generator) * ((TAILS - 2) / squares).sqrt()


def path_loss_db(loss: PathLoss, receivers_m: Tensor, truths_m: Tensor) -> Tensor:
    """The mean strength that receivers (n, receivers, 2) have of transmitters (n, 2): (n, receivers)."""
    apart = (receivers_m - truths_m.unsqueeze(1)).norm(dim=-1).clamp(min=NEAREST_M)
    mean: Tensor = loss.at(apart.log10())
    return mean
