"""One training run in a folder of its own: what it was asked, its checkpoint, its curves, and what was published."""

import platform
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from threadpoolctl import threadpool_limits

from rfserve.export import checkpoint as checkpoints
from rfserve.export.errors import DataError
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.networks.catalog import build
from rfserve.export.networks.heimdall_net import HeimdallBase
from rfserve.export.progress import Report
from rfserve.export.publication import Source, publish
from rfserve.export.registry import Registry
from rfserve.export.spec import ModelSpec
from rfserve.export.spec.models.heimdall_net import MAX_RECEIVERS
from rfserve.export.training import digests, run_folder
from rfserve.export.training.curves import Curves
from rfserve.export.training.durable_checkpoints import DurableCheckpoints
from rfserve.export.training.made_events import MadeEvents
from rfserve.export.training.plane import Plane, around
from rfserve.export.training.radio_map import RadioMap
from rfserve.export.training.rss_event import truths_deg
from rfserve.export.training.rss_module import Recipe, RssTraining
from rfserve.export.training.rss_table import RssTable, learned_scaling
from rfserve.export.training.rss_tensors import NOISE_DB
from rfserve.export.training.run_folder import CHECKPOINT, RESULT
from rfserve.export.training.split import Split

CURVES = "curves"
# What Lightning can seed.
MOST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to train, and where. A run of the same seed, recipe, data and library versions gives the same weights.

    `folder` is made; one that another run has begun is refused, unless `resume` says to go on from its last whole
    epoch. With a `repository` the network is exported, verified and published at the end, and registered with a
    `registry`. `threads` is PyTorch's; other numbers of them round differently, as other devices do: `device` is "cpu",
    "gpu" (the first one), or "auto" for a GPU when there is one.
    """

    spec: ModelSpec
    split: Split
    recipe: Recipe
    folder: Path
    seed: int = 0
    threads: int = 2
    device: str = "auto"
    resume: bool = False
    repository: ModelRepository | None = None
    registry: Registry | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MOST_SEED:
            raise DataError(f"seed: got {self.seed}; expected 0 to {MOST_SEED}")
        if self.threads < 1:
            raise DataError(f"threads: got {self.threads}; expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left: its checkpoint, a digest of the weights in it, the figures of the held-out events, and how long
    it took, for a run that was gone on with since then.
    """

    checkpoint: Path
    weights_sha256: str
    figures: Mapping[str, float]
    duration_s: float
    manifest: Manifest | None


def train(run: Run, report: Report) -> Trained:
    """Train and perhaps publish; `DataError` for a folder that is taken or was begun otherwise, or without the GPU
    that was asked for; `ExportError` when the export fails, which leaves the checkpoint in the folder.
    """
    device = _device(run.device)
    asked = _asked(run, device)
    checkpoint = run_folder.begin(run.folder, asked, resume=run.resume)
    begun = time.monotonic()
    torch.set_num_threads(run.threads)
    seed_everything(run.seed, workers=True, verbose=False)
    plane = around(truths_deg(run.split.learned))
    radio_map, made = _made(run, plane, report)
    measured = RssTable.of(run.split.learned, plane, radio_map.floors)
    network = build(run.spec, seed=run.seed)
    assert isinstance(network, HeimdallBase)  # noqa: S101 - the command offers nothing else
    recipe = run.recipe
    scaling = replace(
        learned_scaling(measured, plane, some=recipe.jitter.strongest, most=MAX_RECEIVERS),
        uncertainty_scale=(recipe.sigma_factor, recipe.sigma_factor),
        uncertainty_by_receivers=recipe.sigma_by_receivers,
    )
    held_out = RssTable.of(run.split.held_out, plane) if run.split.held_out else None
    training = RssTraining(
        network,
        scaling,
        recipe,
        measured=measured,
        made=made,
        held_out=held_out,
        loss=radio_map.common,
        seed=run.seed,
        asked=asked,
    )
    curves = Curves()
    callbacks = [
        EMAWeightAveraging(decay=recipe.average_decay),
        curves,
        ModelCheckpoint(run.folder, CHECKPOINT.removesuffix(".ckpt"), enable_version_counter=False),
        TQDMProgressBar(refresh_rate=10),
    ]
    report(f"training on {len(measured)} events, and made ones at {0 if made is None else len(made)} places")
    trainer = Trainer(
        accelerator=device,
        devices=1,
        callbacks=callbacks,
        # CUDA has operators without a deterministic form: they are named, and used.
        deterministic=True if device == "cpu" else "warn",
        enable_model_summary=False,
        logger=False,
        max_epochs=recipe.epochs,
        precision="bf16-mixed" if recipe.bf16 else "32-true",
        gradient_clip_val=recipe.gradient_norm,
        limit_val_batches=0 if held_out is None else 1,
        num_sanity_val_steps=0,
        plugins=[DurableCheckpoints()],
        reload_dataloaders_every_n_epochs=1,
    )
    _fit(trainer, training, checkpoint)
    curves.write(run.folder / f"{CURVES}.csv")
    # The averaged weights, which are published. The network has others when the last epoch was over before a resume.
    network.load_state_dict(dict(checkpoints.read(run.folder / CHECKPOINT).state))
    trained = Trained(
        checkpoint=run.folder / CHECKPOINT,
        weights_sha256=digests.weights(network),
        figures=curves.last,
        duration_s=time.monotonic() - begun,
        manifest=None,
    )
    trained = _kept(run.folder, trained, device)
    curves.draw(run.folder / f"{CURVES}.svg")
    return _published(run, trained, report)


def _fit(trainer: Trainer, training: RssTraining, checkpoint: Path | None) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        # Batches are made in this process, one after the other: workers would not be faster.
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Your `IterableDataset` has `__len__` defined.*")
        try:
            trainer.fit(training, ckpt_path=checkpoint)
        except SystemExit as stopped:
            if not trainer.interrupted:
                raise
            # The trainer ends the process after Ctrl-C, and ignores every other one until then.
            signal.signal(signal.SIGINT, handler)
            raise DataError(f"stopped after {trainer.current_epoch} epochs; go on with --resume") from stopped


def _kept(folder: Path, trained: Trained, device: str) -> Trained:
    """Write the result down, before an export can fail. Of weights that were there before, the duration is known."""
    before = run_folder.result(folder)
    machine = _machine(device)
    if before.get("weights_sha256") == trained.weights_sha256:
        trained = replace(trained, duration_s=before.get("duration_s", trained.duration_s))
        machine = before.get("machine", machine)
    run_folder.write(folder / RESULT, {**asdict(trained), "checkpoint": CHECKPOINT, "machine": machine})
    return trained


def _published(run: Run, trained: Trained, report: Report) -> Trained:
    if run.repository is None:
        return trained
    manifest = publish(run.spec, run.repository, Source(checkpoint=trained.checkpoint), version=None, report=report)
    if run.registry is not None:
        run.registry.register(run.repository, manifest)
    return replace(trained, manifest=manifest)


def _asked(run: Run, device: str) -> dict[str, Any]:
    """What decides weights and figures, as JSON holds it."""
    split = run.split
    return {
        "model": run.spec.name,
        "seed": run.seed,
        "recipe": asdict(run.recipe),
        "split": split.name,
        "events": {"learned": len(split.learned), "held_out": len(split.held_out)},
        "data_sha256": digests.measured(split.learned),
        "names_sha256": digests.names(split.learned),
        "held_out_sha256": digests.measured(split.held_out),
        "threads": run.threads,
        "device": device,
    }


def _made(run: Run, plane: Plane, report: Report) -> tuple[RadioMap, MadeEvents | None]:
    """The radio map of what is learned, and the events that it makes."""
    recipe = run.recipe
    # What NumPy and SciPy compute with; other numbers of threads round differently.
    with threadpool_limits(run.threads):
        radio_map = RadioMap(run.split.learned, plane, seed=run.seed)
        if not recipe.made:
            return radio_map, None
        report("learning a radio map of every fixed receiver")
        made = radio_map.made_events(
            recipe.made_pool,
            seed=run.seed,
            spread_m=recipe.made_spread_m,
            anywhere=recipe.made_anywhere,
            far=recipe.made_far,
            far_m=recipe.made_far_m,
            weakest_db=NOISE_DB,
        )
    return radio_map, made


def _device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "gpu" and not there:
        raise DataError("--device gpu: PyTorch finds none here; name cpu, or auto for a GPU when there is one")
    return "gpu" if there and wanted != "cpu" else "cpu"


def _machine(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "gpu" else platform.machine()
    return {"machine": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
