"""A real fit publishes its best checkpoint, and a failing export never costs the run."""

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from rfserve.export import onnx_file, verification
from rfserve.export.cli import main
from rfserve.export.errors import CheckpointError, ExportError, RegistryError, RepositoryError, ScalingError
from rfserve.export.lightning import ExportOnFitEnd, ExportWarning
from rfserve.export.networks.heimdall_net import HeimdallNet
from rfserve.export.networks.iq_encoder import HEIMDALL_1_0, MBCONV
from rfserve.export.networks.scaled import in_physical_units
from rfserve.export.publication import Source, build_network
from rfserve.export.registry import CANDIDATE, CHAMPION, Registry
from rfserve.export.repository import Repository
from rfserve.export.scaling import NEW_WEIGHTS, Scaling
from rfserve.export.spec import ModelNotFound, example, find

MODEL = "heimdall_net"
SPEC = find(MODEL)
SIZES = {"receivers": 3, "samples": 256}


class Training(pl.LightningModule):
    """What trains a HeimdallNet: the network, and a weighted loss with weights of its own."""

    def __init__(self, order: str = MBCONV, failure: BaseException | None = None) -> None:
        super().__init__()
        self.model = HeimdallNet(order=order)
        self.register_buffer("loss_weights", torch.tensor([1.0, 2.0]))
        self.failure = failure

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.failure is not None:
            raise self.failure
        positions, uncertainties = self.model(*batch)
        loss = (self.loss_weights * (positions**2 + uncertainties)).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def examples() -> list[list[Tensor]]:
    """Four scaled examples, in two batches."""
    batches = []
    for seed in range(2):
        drawn = example(SPEC, batch=2, sizes=SIZES, seed=seed)
        drawn["features"], drawn["receiver_positions"] = drawn["features"] / 100, drawn["receiver_positions"] / 100
        batches.append([torch.from_numpy(drawn[t.name]) for t in SPEC.inputs])
    return batches


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)} | options),
    )


def fit(training: Training, folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    running = trainer(folder, *callbacks, **options)
    running.fit(training, DataLoader(examples(), batch_size=None))
    return running


def keeper(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder / "checkpoints", monitor="loss")


def random_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


class Watch(pl.Callback):
    """What the process looks like when training has ended."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.states, self.training = random_states(), pl_module.training


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, ExportOnFitEnd, Training, list[Any]]:
    """A fit that exported and registered, and the random states and modes before and after its export."""
    folder: Path = tmp_path_factory.mktemp("fit")
    torch.manual_seed(5)
    training, watch = Training(), Watch()
    callback = ExportOnFitEnd(
        MODEL, folder / "repository", scaling=NEW_WEIGHTS[MODEL].to_dict(), registry=Registry(str(folder / "mlruns"))
    )
    fit(training, folder, keeper(folder), callback, watch)
    same = [
        random_states() == watch.states,
        training.training == watch.training,
        torch.is_grad_enabled(),
        not torch.is_inference_mode_enabled(),
    ]
    return folder, callback, training, same


def test_best_checkpoint_is_published_verified_and_registered(fitted, capsys):
    folder, callback, _, _ = fitted
    assert callback.error is None
    best = next((folder / "checkpoints").iterdir())
    assert callback.manifest.checkpoint["file"] == best.name
    assert callback.manifest.weights == "checkpoint"
    assert callback.manifest.parity["cases"] == 25
    assert callback.manifest.scaling == Scaling.from_dict(callback.manifest.scaling).to_dict() != Scaling().to_dict()
    assert main(["check", MODEL, "--repository", str(folder / "repository")]) == 0
    assert capsys.readouterr().out == f"{MODEL}: ok (version 1)\n"
    registry = Registry(str(folder / "mlruns"))
    assert registry.version_of(MODEL, CANDIDATE) == 1
    assert registry.version_of(MODEL, CHAMPION) is None
    run = registry.tracking.client.get_run(callback.registered.run_id)
    assert run.data.tags["rfserve.checkpoint_sha256"] == callback.manifest.checkpoint["sha256"]


def test_served_graph_answers_as_the_trained_network(fitted):
    folder, _, _, _ = fitted
    best = next((folder / "checkpoints").iterdir())
    trained = Training.load_from_checkpoint(best, map_location="cpu").model.eval()
    module = in_physical_units(MODEL, trained, NEW_WEIGHTS[MODEL])
    session = onnx_file.open_session(folder / "repository" / MODEL / "1" / "model.onnx")
    inputs = example(SPEC, batch=3, seed=7)
    got, expected = onnx_file.run_session(session, inputs), onnx_file.run_eager(module, SPEC, inputs)
    degrees = SPEC.tolerance * 10_000 / 78_000
    np.testing.assert_allclose(got["positions"], expected["positions"], atol=degrees, rtol=1e-6)
    np.testing.assert_allclose(got["uncertainties"], expected["uncertainties"], atol=SPEC.tolerance * 10_000, rtol=1e-6)


def test_process_is_as_before_the_export(fitted):
    assert fitted[3] == [True] * 4


def test_checkpoint_alone_says_how_it_was_trained(fitted):
    folder, _, _, _ = fitted
    built = build_network(SPEC, Source(checkpoint=next((folder / "checkpoints").iterdir())))
    assert built.encoder_order == MBCONV
    assert built.scaling == NEW_WEIGHTS[MODEL]


def test_checkpoint_of_scaling_in_arrays_loads_and_says_it(tmp_path: Path):
    rows = np.random.default_rng(0).uniform(1.0, 2.0, (50, 6))
    given = {"feature_offset": rows.mean(0), "feature_scale": tuple(rows.std(0)), "target_scale": torch.ones(2)}
    callback = ExportOnFitEnd(MODEL, tmp_path / "repository", scaling=given)
    saved = {"state_dict": HeimdallNet(order=MBCONV).state_dict()}
    callback.on_save_checkpoint(None, None, saved)
    torch.save(saved, tmp_path / "c.ckpt")
    built = build_network(SPEC, Source(checkpoint=tmp_path / "c.ckpt"))
    assert built.scaling == callback.scaling
    assert built.scaling.feature_offset == tuple(rows.mean(0).tolist())


def test_last_weights_are_published_when_no_checkpoint_is_kept(tmp_path: Path):
    training = Training(HEIMDALL_1_0)
    callback = ExportOnFitEnd(MODEL, str(tmp_path / "repository"))
    fit(training, tmp_path, callback)
    assert callback.error is None
    assert callback.manifest.checkpoint["file"] == "last.ckpt"
    assert callback.manifest.encoder_order == HEIMDALL_1_0
    session = onnx_file.open_session(tmp_path / "repository" / MODEL / "1" / "model.onnx")
    inputs = example(SPEC, batch=2, seed=3)
    expected = onnx_file.run_eager(training.model.eval(), SPEC, inputs)
    np.testing.assert_allclose(
        onnx_file.run_session(session, inputs)["positions"], expected["positions"], atol=1e-5, rtol=1e-5
    )
    assert callback._last is None


def no_folder(folder: Path) -> ExportOnFitEnd:
    (folder / "repository").write_text("a file where the repository belongs")
    return ExportOnFitEnd(MODEL, folder / "repository")


def other_network(folder: Path) -> ExportOnFitEnd:
    return ExportOnFitEnd("heimdall_net_pro", folder / "repository")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (no_folder, RepositoryError, "cannot write to the repository"),
        (other_network, CheckpointError, "does not fit HeimdallNetPro"),
    ],
)
def test_failing_export_leaves_the_run_and_its_checkpoint(make, kind, message, tmp_path: Path):
    callback = make(tmp_path)
    with pytest.warns(ExportWarning, match=rf"was trained, but not published: .*{message}.*The checkpoint is .*\.ckpt"):
        running = fit(Training(), tmp_path, keeper(tmp_path), callback)
    assert running.state.finished
    assert running.global_step == 2
    assert isinstance(callback.error, kind)
    assert callback.manifest is None
    best = next((tmp_path / "checkpoints").iterdir())
    assert torch.load(best, weights_only=True)["global_step"] == 2


def test_last_weights_stay_when_their_export_fails(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(ExportWarning, match=r"The checkpoint is .*last\.ckpt"):
        fit(Training(), tmp_path, other_network(tmp_path))
    assert len(list(tmp_path.glob("rfserve-last-*/last.ckpt"))) == 1


def test_last_weights_that_cannot_be_saved_end_nothing(tmp_path: Path, monkeypatch):
    callback = ExportOnFitEnd(MODEL, tmp_path / "repository")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.warns(ExportWarning, match="the last weights were not saved; set TMPDIR"):
        running = fit(Training(), tmp_path, callback)
    assert running.state.finished
    assert callback.manifest is None


def test_failing_registration_leaves_the_published_version(tmp_path: Path):
    (tmp_path / "mlruns").write_text("a file where the database belongs")
    callback = ExportOnFitEnd(MODEL, tmp_path / "repository", registry=Registry(str(tmp_path / "mlruns")))
    with pytest.warns(ExportWarning, match="published as version 1 but not registered"):
        fit(Training(HEIMDALL_1_0), tmp_path, keeper(tmp_path), callback)
    assert isinstance(callback.error, RegistryError)
    assert callback.registered is None
    assert verification.problems(Repository(tmp_path / "repository"), MODEL) == []


def test_strict_export_raises_after_training(tmp_path: Path):
    callback = ExportOnFitEnd("heimdall_net_pro", tmp_path / "repository", strict=True)
    with pytest.raises(CheckpointError, match="does not fit"):
        fit(Training(), tmp_path, keeper(tmp_path), callback)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize(
    ("failure", "ends_with"), [(ValueError("diverged"), ValueError), (KeyboardInterrupt(), SystemExit)]
)
def test_interrupted_training_publishes_nothing(failure, ends_with, tmp_path: Path):
    callback = ExportOnFitEnd(MODEL, tmp_path / "repository")
    with pytest.raises(ends_with):
        fit(Training(failure=failure), tmp_path, keeper(tmp_path), callback)
    assert (callback.manifest, callback.error) == (None, None)
    assert not (tmp_path / "repository").exists()


def test_dry_run_and_other_ranks_publish_nothing(tmp_path: Path, monkeypatch):
    callback = ExportOnFitEnd(MODEL, tmp_path / "repository")
    fit(Training(), tmp_path, callback, fast_dev_run=True)
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    fit(Training(), tmp_path, keeper(tmp_path), callback)
    assert (callback.manifest, callback.error) == (None, None)
    assert not (tmp_path / "repository").exists()


def test_order_that_is_not_the_networks_is_refused_before_training(tmp_path: Path):
    callback = ExportOnFitEnd(MODEL, tmp_path / "repository", encoder_order=HEIMDALL_1_0)
    with pytest.raises(ExportError, match=r"got encoder order 'heimdall-1\.0' for a network of order mbconv"):
        fit(Training(), tmp_path, keeper(tmp_path), callback)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        ("nothing", {}, ModelNotFound, "no served model 'nothing'"),
        ("locate", {}, ExportError, "has no weights of its own"),
        ("mel_features", {}, ExportError, "has no weights of its own"),
        (MODEL, {"encoder_order": "other"}, ExportError, "expected one of heimdall-1.0, mbconv"),
        (MODEL, {"variant": "tiny"}, ExportError, "it has one size"),
        (MODEL, {"scaling": {"position_scale": [0, 0, 0]}}, ScalingError, "expected every number above 0"),
        (MODEL, {"scaling": "nowhere.json"}, ScalingError, "nowhere.json"),
    ],
)
def test_what_cannot_work_is_refused_before_training(model, options, kind, message, tmp_path: Path):
    with pytest.raises(kind, match=message):
        ExportOnFitEnd(model, tmp_path, **options)
