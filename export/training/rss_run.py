"""One training run in a folder of its own: what it was asked, its checkpoint, its curves, and what was published."""

import hashlib
import json
import platform
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

from rfserve.export.errors import DataError
from rfserve.export.lightning import ExportOnFitEnd
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.networks.catalog import build
from rfserve.export.networks.heimdall_net import HeimdallBase
from rfserve.export.progress import Report
from rfserve.export.registry import Registry
from rfserve.export.spec import ModelSpec
from rfserve.export.spec.models.heimdall_net import MAX_RECEIVERS
from rfserve.export.training.curves import Curves
from rfserve.export.training.made_events import MadeEvents
from rfserve.export.training.plane import Plane, around
from rfserve.export.training.radio_map import RadioMap
from rfserve.export.training.rss_event import truths_deg
from rfserve.export.training.rss_module import Recipe, RssTraining
from rfserve.export.training.rss_table import RssTable, learned_scaling
from rfserve.export.training.rss_tensors import NOISE_DB
from rfserve.export.training.split import Split

CHECKPOINT, ASKED, RESULT, CURVES = "last.ckpt", "asked.json", "result.json", "curves"


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


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run left: its checkpoint, a digest of the weights, the figures of the held-out events, its duration."""

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
    asked = _asked(run)
    checkpoint = _begin(run, asked)
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
    callbacks: list[Any] = [
        EMAWeightAveraging(decay=recipe.average_decay),
        curves,
        ModelCheckpoint(run.folder, CHECKPOINT.removesuffix(".ckpt"), enable_version_counter=False),
        TQDMProgressBar(refresh_rate=10),
    ]
    export = None
    if run.repository is not None:
        export = ExportOnFitEnd(run.spec.name, run.repository, registry=run.registry, strict=True)
        callbacks.append(export)
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
        reload_dataloaders_every_n_epochs=1,
    )
    with warnings.catch_warnings():
        # Batches are made in this process, one after the other: workers would not be faster.
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*Your `IterableDataset` has `__len__` defined.*")
        trainer.fit(training, ckpt_path=checkpoint)
    if trainer.interrupted:
        raise DataError(f"stopped after {trainer.current_epoch} epochs; go on with --resume")
    curves.write(run.folder / f"{CURVES}.csv")
    curves.draw(run.folder / f"{CURVES}.svg")
    trained = Trained(
        checkpoint=run.folder / CHECKPOINT,
        weights_sha256=digest(network),
        figures={name: float(value) for name, value in trainer.callback_metrics.items()},
        duration_s=time.monotonic() - begun,
        manifest=None if export is None else export.manifest,
    )
    _write(
        run.folder / RESULT,
        {**asdict(trained), "checkpoint": CHECKPOINT, "manifest": None, "machine": _machine(device)},
    )
    return trained


def digest(network: torch.nn.Module) -> str:
    """SHA-256 over the names and bytes of all weights: equal when, bit for bit, the weights are."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _asked(run: Run) -> dict[str, Any]:
    """What decides the weights, as JSON holds it."""
    split = run.split
    return {
        "model": run.spec.name,
        "seed": run.seed,
        "recipe": asdict(run.recipe),
        "split": split.name,
        "events": {"learned": len(split.learned), "held_out": len(split.held_out)},
        "data_sha256": _data_digest(split),
    }


def _data_digest(split: Split) -> str:
    found = hashlib.sha256()
    for event in split.learned:
        found.update(event.time.encode())
        for array in (event.rss_db, event.receivers_deg, event.transmitter_deg):
            found.update(array.tobytes())
    return found.hexdigest()


def _begin(run: Run, asked: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from, or None in a new folder."""
    file, checkpoint = run.folder / ASKED, run.folder / CHECKPOINT
    try:
        before = json.loads(file.read_text()) if file.exists() else None
        if before is None:
            if run.resume:
                raise DataError(f"--resume: {run.folder} holds no run; leave it out, or name the run's folder")
            run.folder.mkdir(parents=True, exist_ok=True)
            _write(file, asked)
            return None
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{run.folder}: {error}; expected a folder for the run") from error
    if not run.resume:
        raise DataError(f"{run.folder} holds a run; go on with --resume, or name another folder")
    changed = [name for name in asked if json.loads(json.dumps(asked[name])) != before.get(name)]
    if changed:
        raise DataError(f"{run.folder} was begun with other {', '.join(changed)}; give what {ASKED} there says")
    return checkpoint if checkpoint.exists() else None


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


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, default=str) + "\n")
