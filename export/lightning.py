"""A Lightning callback that publishes the best checkpoint when training ends."""

import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rfserve.export.commands.repository_option import repository_at
from rfserve.export.errors import ExportError
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.networks.catalog import require_choices
from rfserve.export.networks.iq_encoder import IqEncoder
from rfserve.export.publication import Source, publish
from rfserve.export.registry import Registered, Registry
from rfserve.export.scaling import Scaling
from rfserve.export.spec import ModelSpec, find

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities import rank_zero_warn
    from lightning.pytorch.utilities.seed import isolate_rng
except ModuleNotFoundError as error:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer
        from pytorch_lightning.utilities import rank_zero_warn
        from pytorch_lightning.utilities.seed import isolate_rng
    except ModuleNotFoundError:
        raise ExportError("Lightning is not installed; pip install 'rfserve[training]'") from error

log = logging.getLogger(__name__)


class ExportWarning(UserWarning):
    """Training ended well and its export did not."""


class ExportOnFitEnd(Callback):  # type: ignore[misc]
    """Export, verify and publish the best checkpoint at the end of `fit`, and register it when a registry is given.

    The best checkpoint is that of the trainer's first `ModelCheckpoint`; without one, the last weights. `scaling` and
    `encoder_order` (default: the network's own, else what the checkpoint says) tell how the network was trained. They
    are written into every whole checkpoint, so that its file alone is enough for `rfserve-export write` later;
    `save_weights_only` leaves out what callbacks add.

    A failing export ends nothing: the checkpoint stays, an `ExportWarning` says why, and `error` holds the exception;
    with `strict` it is raised. After an interrupt, an error in training or a `fast_dev_run` nothing is exported.
    `manifest` is what was published, `registered` what was registered. What cannot work raises `RfserveError` when the
    callback is made, before any training.
    """

    def __init__(
        self,
        model: str,
        repository: ModelRepository | Path | str,
        *,
        scaling: Scaling | Mapping[str, Any] | Path | str | None = None,
        encoder_order: str | None = None,
        variant: str | None = None,
        registry: Registry | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        spec = find(model)
        if not isinstance(spec, ModelSpec) or not spec.has_weights:
            raise ExportError(f"{model} has no weights of its own, so no checkpoint belongs to it; name a network")
        require_choices(spec, variant=variant, encoder_order=encoder_order)
        self.spec = spec
        self.repository = repository if isinstance(repository, ModelRepository) else repository_at(str(repository))
        self.scaling = _scaling(scaling)
        self.encoder_order = encoder_order
        self.variant = variant
        self.registry = registry
        self.strict = strict
        self.error: Exception | None = None
        self.manifest: Manifest | None = None
        self.registered: Registered | None = None
        self._order = encoder_order
        self._last: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Forget an earlier fit, and learn the encoder order from the network itself.

        Both orders have the same parameters, so no later check could tell them apart. `ExportError` when the network
        has another order than the callback was given.
        """
        self.error = self.manifest = self.registered = self._last = None
        orders = {m.order for m in pl_module.modules() if isinstance(m, IqEncoder)}
        if self.encoder_order is not None and orders - {self.encoder_order}:
            raise ExportError(
                f"{self.spec.name}: got encoder order {self.encoder_order!r} for a network of order "
                f"{', '.join(sorted(orders))}; give the network's, or leave it out"
            )
        self._order = self.encoder_order or (orders.pop() if len(orders) == 1 else None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:  # noqa: ARG002
        """Write into the checkpoint how its network was trained."""
        if self._order is not None:
            checkpoint["encoder_order"] = self._order
        if self.scaling is not None:
            checkpoint["scaling"] = self.scaling.to_dict()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save the last weights when nothing else does: by the end of the fit, strategies have taken them apart."""
        if trainer.fast_dev_run or _best(trainer) is not None:
            return
        try:
            self._save_last(trainer)
        except Exception as error:  # the run is worth more than any export
            self.error = error

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Export on the first rank, with the process's random states as they were."""
        if trainer.fast_dev_run or not trainer.is_global_zero:
            return
        checkpoint = _best(trainer) or self._last
        if checkpoint is not None:
            with isolate_rng():
                try:
                    self._export(checkpoint)
                    # A best checkpoint may have come after the last weights could not be saved.
                    self.error = None
                except Exception as error:  # the run is worth more than any export
                    self.error = error
        if self.error is None:
            self._forget_last()
            return
        if self.strict:
            raise self.error
        published = "not published"
        if self.manifest is not None:
            published = f"published as version {self.manifest.version} but not registered"
        rank_zero_warn(
            f"{self.spec.name} was trained, but {published}: {self.error}. The checkpoint is {checkpoint}",
            category=ExportWarning,
        )

    def _save_last(self, trainer: Trainer) -> None:
        """Every rank takes part; only the first makes the folder, and tells the others where it is."""
        own = None
        if trainer.is_global_zero:
            with suppress(OSError):
                own = tempfile.mkdtemp(prefix="rfserve-last-")
        shared = trainer.strategy.broadcast(own)
        if shared is None:
            raise ExportError(
                "no folder for temporary files can be made, so the last weights were not saved; set TMPDIR"
            )
        file = Path(shared) / "last.ckpt"
        trainer.save_checkpoint(file)
        self._last = file

    def _export(self, checkpoint: Path) -> None:
        source = Source(checkpoint=checkpoint, scaling=self.scaling, encoder_order=self._order, variant=self.variant)
        self.manifest = publish(self.spec, self.repository, source, version=None, report=log.info)
        log.info("%s/%d is published in %s", self.spec.name, self.manifest.version, self.repository.location)
        if self.registry is not None:
            self.registered = self.registry.register(self.repository, self.manifest)
            log.info("registered as %s", self.registered.uri)

    def _forget_last(self) -> None:
        if self._last is not None:
            self._last.unlink()
            self._last.parent.rmdir()
            self._last = None


def _best(trainer: Trainer) -> Path | None:
    keeper = trainer.checkpoint_callback
    best = getattr(keeper, "best_model_path", "")
    return Path(best) if best else None


def _scaling(given: Scaling | Mapping[str, Any] | Path | str | None) -> Scaling | None:
    if given is None or isinstance(given, Scaling):
        return given
    return Scaling.from_dict(given) if isinstance(given, Mapping) else Scaling.read(Path(given))
