"""Every form that a Heimdall checkpoint comes in loads; what does not fit is refused with all of it named."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from rfserve.export import checkpoint
from rfserve.export.errors import CheckpointError, ScalingError
from rfserve.export.networks.catalog import build
from rfserve.export.networks.convnext_names import translate, variant_of
from rfserve.export.publication import Source, build_network
from rfserve.export.spec import GRAPHS


@pytest.fixture(scope="module")
def state(heimdall_state):
    return heimdall_state("heimdall_net")


def save_plain(state, folder: Path) -> Path:
    torch.save(state, folder / "plain.pt")
    return folder / "plain.pt"


def save_lightning(state, folder: Path) -> Path:
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{k}": v for k, v in state.items()},
        "hyper_parameters": {"lr": 1e-3},
        "optimizer_states": [],
    }
    torch.save(content, folder / "lightning.ckpt")
    return folder / "lightning.ckpt"


def save_safetensors(state, folder: Path) -> Path:
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("save", [save_plain, save_lightning, save_safetensors])
def test_heimdall_checkpoint_loads_in_every_form(state, save, tmp_path: Path):
    network = build(GRAPHS["heimdall_net"], encoder_order="heimdall-1.0", seed=None)
    checkpoint.read(save(state, tmp_path)).load_into(network)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_safetensors_of_shared_modules_load_whole(twice, tmp_path: Path):
    """One tensor under several names is written once, as where all calibrations are one, or a trainer has two names."""
    trained = build(GRAPHS["heimdall_net"], seed=1)
    calibrations = trained.receiver_encoder.calibration_layers
    for name in calibrations:
        calibrations[name] = calibrations["0"]
    trainer = nn.ModuleDict({"network": trained, **({"averaged": trained} if twice else {})})
    save_model(trainer, tmp_path / "shared.safetensors")
    network = build(GRAPHS["heimdall_net"], seed=2)
    checkpoint.read(tmp_path / "shared.safetensors").load_into(network)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.state_dict().items())


def test_tensors_beside_the_network_are_the_trainers(state, tmp_path: Path):
    network = build(GRAPHS["heimdall_net"], seed=None)
    torch.save(
        {"state_dict": {"loss.weight": torch.ones(2)} | {f"net.{k}": v for k, v in state.items()}}, tmp_path / "c.ckpt"
    )
    checkpoint.read(tmp_path / "c.ckpt").load_into(network)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["", "model."])
def test_checkpoint_of_several_networks_is_refused(prefix, state, tmp_path: Path):
    both = {f"ema.{k}": v for k, v in state.items()} | {f"{prefix}{k}": v for k, v in state.items()}
    torch.save({"state_dict": both}, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match=r"c\.ckpt holds several networks, under .*'ema\.'.*save the one"):
        checkpoint.read(tmp_path / "c.ckpt")


@pytest.mark.parametrize(
    "network", ["heimdall_net", "heimdall_net_pro", "localization_net_tiny", "localization_net_large"]
)
def test_network_has_exactly_the_parameters_of_a_heimdall_checkpoint(network, heimdall_state):
    model = "localization_net" if network.startswith("localization") else network
    variant = network.rpartition("_")[2] if model == "localization_net" else None
    with torch.device("meta"):
        # No weights are needed to compare names and shapes.
        ours = {k: v.shape for k, v in build(GRAPHS[model], variant=variant, seed=None).state_dict().items()}
    theirs = translate(heimdall_state(network))
    assert {k: v.shape for k, v in theirs.items()} == ours
    if variant:
        assert variant_of(theirs) == variant


def test_missing_extra_and_misshaped_tensors_are_all_named(state, tmp_path: Path):
    broken = dict(state)
    del broken["position_head.bias"], broken["global_fusion.0.bias"]
    broken["head.of_someone_else"] = torch.zeros(2)
    broken["global_fusion.0.weight"] = torch.zeros(3, 4)
    loaded = checkpoint.read(save_plain(broken, tmp_path))
    with pytest.raises(CheckpointError) as caught:
        loaded.load_into(build(GRAPHS["heimdall_net"], seed=None))
    text = str(caught.value)
    assert "2 missing: global_fusion.0.bias; position_head.bias" in text
    assert "1 extra: head.of_someone_else" in text
    assert "global_fusion.0.weight: got (3, 4), expected (256, 512)" in text


def test_checkpoint_of_the_other_network_is_refused(heimdall_state, tmp_path: Path):
    loaded = checkpoint.read(save_plain(heimdall_state("heimdall_net_pro"), tmp_path))
    with pytest.raises(CheckpointError, match=r"extra.*set_aggregator\.attention"):
        loaded.load_into(build(GRAPHS["heimdall_net"], seed=None))


def test_non_finite_weights_are_refused(state, tmp_path: Path):
    broken = {**state, "position_head.bias": torch.tensor([0.0, float("nan")])}
    with pytest.raises(CheckpointError, match=r"non-finite numbers in position_head\.bias"):
        checkpoint.read(save_plain(broken, tmp_path)).load_into(build(GRAPHS["heimdall_net"], seed=None))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code from the checkpoint was run",))


def test_pickle_that_would_run_code_is_refused_unrun(tmp_path: Path):
    file = tmp_path / "bomb.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hook": Bomb()}, file)
    with pytest.raises(CheckpointError, match="would run code"):
        checkpoint.read(file)
    file.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(CheckpointError):
        checkpoint.read(file)


@pytest.mark.parametrize("name", ["broken.pt", "broken.ckpt", "broken.safetensors"])
def test_damaged_file_is_refused(name, tmp_path: Path):
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match="is not a"):
        checkpoint.read(tmp_path / name)


def test_missing_file_is_refused_with_the_forms_that_are_read(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*\.safetensors"):
        checkpoint.read(tmp_path / "nothing.pt")


def test_dict_without_tensors_is_refused(tmp_path: Path):
    torch.save({"epoch": 1}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="epoch"):
        checkpoint.read(tmp_path / "c.pt")


def test_checkpoint_says_its_encoder_order_and_scaling(state, tmp_path: Path):
    scaling = {"origin": "receivers", "target_scale": [500.0, 700.0]}
    file = tmp_path / "own.safetensors"
    save_file(state, file, metadata={"encoder_order": "mbconv", "scaling": json.dumps(scaling)})
    built = build_network(GRAPHS["heimdall_net"], Source(checkpoint=file))
    assert built.encoder_order == "mbconv"
    assert built.scaling.target_scale == (500.0, 700.0)
    assert built.weights == "checkpoint"


def test_scaling_of_a_checkpoint_may_hold_tensors(state, tmp_path: Path):
    said = {"origin": torch.tensor([45.0, 7.5]), "feature_offset": torch.arange(6.0)}
    torch.save({"state_dict": state, "scaling": said}, tmp_path / "c.ckpt")
    scaling = build_network(GRAPHS["heimdall_net"], Source(checkpoint=tmp_path / "c.ckpt")).scaling
    assert json.loads(json.dumps(scaling.to_dict()))["feature_offset"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert scaling.origin == (45.0, 7.5)


@pytest.mark.parametrize("said", [torch.ones(6), 2.0], ids=["tensor", "number"])
def test_scaling_of_a_checkpoint_that_is_none_is_refused(said, state, tmp_path: Path):
    torch.save({"state_dict": state, "scaling": said}, tmp_path / "c.ckpt")
    with pytest.raises(ScalingError, match=r"got a (Tensor|float); expected a JSON object, or a dict"):
        build_network(GRAPHS["heimdall_net"], Source(checkpoint=tmp_path / "c.ckpt"))


def test_checkpoint_that_says_nothing_is_heimdalls(state, tmp_path: Path):
    built = build_network(GRAPHS["heimdall_net"], Source(checkpoint=save_plain(state, tmp_path)))
    assert built.encoder_order == "heimdall-1.0"
    assert built.scaling.is_identity


def test_front_end_takes_no_checkpoint(state, tmp_path: Path):
    with pytest.raises(CheckpointError, match="has no weights"):
        build_network(GRAPHS["mel_features"], Source(checkpoint=save_plain(state, tmp_path)))
