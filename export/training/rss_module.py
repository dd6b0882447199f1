"""What trains a HeimdallNet on received signal strengths: the network, its loss, and the events of each epoch."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from rfserve.export.errors import DataError
from rfserve.export.networks.heimdall_net import HeimdallBase
from rfserve.export.networks.scaled import by_receivers
from rfserve.export.scaling import Pairs, Scaling
from rfserve.export.spec.models.heimdall_net import MAX_RECEIVERS
from rfserve.export.training import season
from rfserve.export.training.accuracy import measure
from rfserve.export.training.made_events import MadeEvents
from rfserve.export.training.path_loss import PathLoss
from rfserve.export.training.rss_table import Jitter, RssTable
from rfserve.export.training.season import Season
from rfserve.export.training.student_t import negative_log_likelihood

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    `made` events of the radio map join every measured one, at places from a pool of `made_pool`; these are measured
    ones moved by `made_spread_m`, but for the shares `made_anywhere`, and `made_far` up to `made_far_m` away: a network
    that was never shown emitters outside takes all for near ones. `least_sigma`, in network units, is the least that
    the loss believes, and `tails` its degrees of freedom (`student_t.py`). What is published are weights averaged over
    steps with `average_decay`. `sigma_factor` is what the published sigma is multiplied by: what other folds needed;
    and again by `sigma_by_receivers`, as `Scaling.uncertainty_by_receivers`. `bf16` computes steps in mixed precision:
    faster on processors that multiply BF16, and slower on others. Weights are FP32 either way.
    """

    epochs: int = 400
    batch: int = 64
    made: float = 2.0
    made_pool: int = 20_000
    made_spread_m: float = 150.0
    made_anywhere: float = 0.3
    made_far: float = 0.05
    made_far_m: float = 6000.0
    sigma_factor: float = 1.7
    sigma_by_receivers: Pairs = ((6.0, 0.78), (12.0, 0.9), (23.0, 1.0))
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up_share: float = 0.1
    gradient_norm: float = 1.0
    average_decay: float = 0.995
    least_sigma: float = 0.02
    tails: float = 5.0
    bf16: bool = False
    jitter: Jitter = field(default_factory=Jitter)
    season: Season = field(default_factory=Season)

    def __post_init__(self) -> None:
        rules: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
            (("epochs", "batch", "made_pool"), lambda v: v >= 1, "1 or more"),
            (("made_anywhere", "made_far"), lambda v: 0 <= v <= 1, "0 to 1"),
            (("made", "made_spread_m", "made_far_m"), lambda v: 0 <= v < math.inf, "a finite number, 0 or more"),
            (("sigma_factor", "learning_rate"), lambda v: 0 < v < math.inf, "a finite number above 0"),
        )
        for names, is_good, expected in rules:
            for name in names:
                if not is_good(getattr(self, name)):
                    raise DataError(f"{name.replace('_', '-')}: got {getattr(self, name)}; expected {expected}")


class RssTraining(LightningModule):  # type: ignore[misc]
    """Negative log-likelihood of the truth by Student's t, over measured and made events.

    Everything random follows from `seed` and the epoch's number, so that a run that was killed goes on, from the last
    whole epoch, to the same weights. `held_out` is only looked at: nothing is chosen by it. `loss` is what receivers
    that nobody knows measure, `asked` what the checkpoint is to say of the run.
    """

    def __init__(
        self,
        network: HeimdallBase,
        scaling: Scaling,
        recipe: Recipe,
        *,
        measured: RssTable,
        made: MadeEvents | None,
        held_out: RssTable | None,
        loss: PathLoss,
        seed: int,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.train()
        self.scaling, self.recipe, self.seed, self.asked = scaling, recipe, seed, asked
        self.measured, self.made, self.held_out, self.loss = measured, made, held_out, loss
        strengths_only(network)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The epoch's batches; the trainer asks anew for each epoch."""
        return DataLoader(_Epoch(self), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """What is held out, in one batch; the trainer does not ask when that is nothing."""
        assert self.held_out is not None  # noqa: S101
        whole = (*self._inputs(self.held_out), self.held_out.targets(self.scaling))
        return DataLoader([whole], batch_size=None)  # type: ignore[arg-type]

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Every measured event once, in a new order, each batch with its share of made events; all of them jittered."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(len(self.measured), generator=generator)
        for which in torch.split(order, self.recipe.batch):
            table = self.measured.rows(which)
            if self.made is not None:
                table = table.joined(self.made.draw(round(self.recipe.made * len(which)), generator))
            table = season.changed(table, self.recipe.season, self.loss, generator)
            table = table.jittered(self.recipe.jitter, generator)
            yield (*self._inputs(table), table.targets(self.scaling))

    @property
    def batches_per_epoch(self) -> int:
        """How many of them there are."""
        return math.ceil(len(self.measured) / self.recipe.batch)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch."""
        loss = self._nll(batch).mean()
        self.log("train_nll", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch[-1]))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log how far held-out events are located from the truth."""
        position, sigma = (answer.cpu() for answer in self.network(*batch[:-1]))
        mask, target = (tensor.cpu() for tensor in batch[-2:])
        unit = torch.tensor(self.scaling.target_scale)
        sigma_m = sigma * unit * torch.tensor(self.scaling.uncertainty_scale)
        sigma_m = by_receivers(sigma_m, self.scaling.uncertainty_by_receivers, mask)
        found = measure(((position - target) * unit).double().numpy(), sigma_m.double().numpy())
        figures = {"held_median_m": found.error_m[0], "held_p90_m": found.error_m[2], "held_nll": found.nll}
        if found.inside is not None:
            figures["held_inside_68"] = found.inside[1]
        self.log_dict(figures, prog_bar=True, batch_size=len(batch[-1]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write into the checkpoint what an export needs to know."""
        checkpoint["scaling"] = self.scaling.to_dict()
        checkpoint["training"] = self.asked
        checkpoint["encoder_order"] = self.network.receiver_encoder.iq_encoder.order

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate (Smith 2018) over the whole run."""
        recipe = self.recipe
        trained = [p for p in self.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        steps, warm_up = recipe.epochs * self.batches_per_epoch, recipe.warm_up_share
        # PyTorch divides by zero when a single step is all that warms up.
        warm_up = math.nextafter(warm_up, 0.0) if warm_up * steps == 1 else warm_up
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, recipe.learning_rate, total_steps=steps, pct_start=warm_up
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _inputs(self, table: RssTable) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return table.inputs(self.scaling, MAX_RECEIVERS)

    def _nll(self, batch: Batch) -> Tensor:
        position, sigma = self.network(*batch[:-1])
        sigma = sigma.clamp(min=self.recipe.least_sigma)
        return negative_log_likelihood(position - batch[-1], sigma, self.recipe.tails)


class _Epoch(IterableDataset[Batch]):
    def __init__(self, training: RssTraining) -> None:
        self._training = training

    def __iter__(self) -> Iterator[Batch]:
        return self._training.batches(self._training.current_epoch)


def strengths_only(network: HeimdallBase) -> None:
    """Make a network learn from strengths and places alone: the data have no IQ, and more receivers than ids.

    The IQ encoder is silent, the receivers' embeddings are zero and stay so, and one calibration is shared by all ids.
    The geometry's encoder stays as it was drawn: to learn it, over all pairs of receivers, took 40 % of a step, and
    the receivers' own rows say where they stand.
    """
    encoder = network.receiver_encoder
    encoder.iq_encoder.silence()
    with torch.no_grad():
        encoder.receiver_embeddings.weight.zero_()
    encoder.receiver_embeddings.requires_grad_(requires_grad=False)
    network.geometry_encoder.requires_grad_(requires_grad=False)
    first = encoder.calibration_layers["0"]
    for name in encoder.calibration_layers:
        encoder.calibration_layers[name] = first
