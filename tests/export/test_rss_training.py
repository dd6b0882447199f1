"""A network trained on made-up walks: its weights repeat, a killed run goes on to them, and it is published."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rss_walks import PLANE, walk, write_table
from served import BriefServer

from rfserve.export import onnx_file
from rfserve.export.cli import main
from rfserve.export.commands.evaluate import write
from rfserve.export.errors import DataError
from rfserve.export.manifest import GRAPH_FILE
from rfserve.export.networks.catalog import build
from rfserve.export.networks.scaled import in_physical_units
from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS
from rfserve.export.spec.models.heimdall_net import MAX_RECEIVERS
from rfserve.export.training import season
from rfserve.export.training.accuracy import measure
from rfserve.export.training.baselines import BASELINES
from rfserve.export.training.evaluation import Errors, Evaluation
from rfserve.export.training.made_events import path_loss_db
from rfserve.export.training.path_loss import PathLoss
from rfserve.export.training.plane import around
from rfserve.export.training.radio_map import RadioMap
from rfserve.export.training.rss_event import truths_deg
from rfserve.export.training.rss_module import Recipe, RssTraining
from rfserve.export.training.rss_run import Run, Trained, train
from rfserve.export.training.rss_table import UNHEARD, Jitter, RssTable, learned_scaling
from rfserve.export.training.rss_tensors import tensors
from rfserve.export.training.season import Season
from rfserve.export.training.split import by_place, everything
from rfserve.server.process import ServerOptions

pytestmark = pytest.mark.usefixtures("brief_gate")

SPEC = GRAPHS["heimdall_net"]
EVENTS = walk(200, shadowing_db=2.0)
SMALL = by_place(walk(80, receivers=5, shadowing_db=2.0))
QUICK = Recipe(epochs=3, batch=32, made=0)
MADE = replace(QUICK, made=0.5, made_pool=100)


def run(folder: Path, **changed: object) -> Trained:
    asked = Run(spec=SPEC, split=by_place(EVENTS), recipe=QUICK, folder=folder, threads=1)
    return train(replace(asked, **changed), lambda _: None)


def network_inputs(events):
    """What training feeds the network, and the scaling."""
    table = RssTable.of(events, PLANE)
    scaling = replace(learned_scaling(table, PLANE, some=(6, 12), most=MAX_RECEIVERS), uncertainty_scale=(1.3, 1.3))
    return table.inputs(scaling, MAX_RECEIVERS), scaling


def test_seed_repeats_bit_for_bit_and_another_one_does_not(tmp_path):
    first, again = (run(tmp_path / name, recipe=MADE, split=SMALL) for name in "ab")
    assert first.weights_sha256 == again.weights_sha256
    assert first.figures == again.figures
    assert run(tmp_path / "c", recipe=MADE, split=SMALL, seed=1).weights_sha256 != first.weights_sha256


@pytest.mark.parametrize("model", ["heimdall_net", "heimdall_net_pro"])
def test_training_feeds_what_the_served_network_is_fed(model):
    """The served one takes degrees and dB, training takes metres: both see the same event."""
    events = EVENTS[:9]
    inputs, scaling = network_inputs(events)
    network = build(GRAPHS[model])
    position, sigma = network(*inputs[:1], *inputs[1:])
    served = in_physical_units(model, network, scaling)
    held = [torch.from_numpy(a) for a in tensors(GRAPHS[model], events).values()]
    # IQ of zeros depends on its length at the edges; the network that is trained ignores it.
    held[0] = inputs[0]
    # The table is as wide as its events.
    held = [held[0], *(array[:, : inputs[4].shape[1]] for array in held[1:])]
    found, metres = served(*held)
    unit = torch.tensor(scaling.target_scale)
    expected = PLANE.degrees((position * unit + torch.tensor(scaling.target_offset)).detach().double().numpy())
    assert np.allclose(found.detach().numpy(), expected, atol=2e-5)
    assert np.allclose(metres.detach().numpy(), (sigma * unit * 1.3).detach().numpy(), rtol=1e-3)


def test_scaling_comes_from_what_is_learned():
    inputs, scaling = network_inputs(EVENTS)
    snr = inputs[1][..., 0][inputs[4]]
    assert abs(float(snr.mean())) < 1e-4
    assert abs(float(snr.std()) - 1) < 1e-3
    targets = RssTable.of(EVENTS, PLANE).targets(scaling)
    assert float(targets.mean(0).abs().max()) < 1e-4


def test_jitter_keeps_what_it_must_and_changes_the_rest():
    table = RssTable.of(EVENTS, PLANE)
    jitter = Jitter(receiver_dropout=0.9, dropout_share=1.0, strongest_share=0, direction_db=0)
    found = table.jittered(jitter, torch.Generator().manual_seed(0))
    heard = (found.rss_db > UNHEARD).sum(1)
    assert int(heard.min()) >= jitter.fewest
    assert 0.4 < float(heard.float().mean()) / table.rss_db.shape[1] < 0.8
    kept = found.rss_db > UNHEARD
    moved = (found.rss_db - table.rss_db)[kept]
    assert float(moved.std()) == pytest.approx((jitter.rss_db**2 + jitter.level_db**2) ** 0.5, rel=0.1)
    assert float((found.truths_m - table.truths_m).std()) == pytest.approx(jitter.truth_m, rel=0.15)
    assert not kept[~(table.rss_db > UNHEARD)].any()


def test_jitter_sometimes_leaves_only_the_strongest():
    table = RssTable.of(EVENTS, PLANE)
    jitter = Jitter(rss_db=0, direction_db=0, receiver_dropout=0, strongest_share=1.0, strongest=(5, 7))
    found = table.jittered(jitter, torch.Generator().manual_seed(0))
    heard = found.rss_db > UNHEARD
    assert set(heard.sum(1).tolist()) == {5, 6, 7}
    weakest_kept = table.rss_db.masked_fill(~heard, torch.inf).amin(1)
    strongest_gone = table.rss_db.masked_fill(heard, -torch.inf).amax(1)
    assert bool((weakest_kept >= strongest_gone).all())


def test_jitter_by_direction_is_alike_at_neighbours_and_not_across():
    table = RssTable.of(EVENTS, PLANE)
    turn = torch.tensor([0.0, 0.05, torch.pi])
    places = 500 * torch.stack([turn.cos(), turn.sin()], -1)
    table = replace(
        table,
        rss_db=table.rss_db[:, :3] * 0,
        receivers_m=table.truths_m.unsqueeze(1) + places,
        floor_db=table.floor_db[:, :3],
    )
    jitter = Jitter(rss_db=0, level_db=0, direction_db=2.0, receiver_dropout=0, strongest_share=0)
    moved = table.jittered(jitter, torch.Generator().manual_seed(0)).rss_db
    assert float(moved[:, 0].std()) == pytest.approx((2.0**2 + 1.0**2) ** 0.5, rel=0.15)
    assert float((moved[:, 0] - moved[:, 1]).std()) < 0.2
    assert float((moved[:, 0] - moved[:, 2]).std()) == pytest.approx(4.0, rel=0.15)


def test_radio_map_finds_the_path_loss_and_predicts_unseen_places():
    learned = walk(250, receivers=4, shadowing_db=1.0)
    asked = walk(50, seed=9, receivers=4)
    found = RadioMap(learned, PLANE, seed=0)
    assert found.common.slope_db == pytest.approx(-20, abs=0.5)
    truths = PLANE.metres(np.array([e.transmitter_deg for e in asked]))
    for i, name in enumerate(asked[0].names):
        mean, deviation = found.receivers[name].predict(truths)
        assert np.sqrt(np.mean((mean - [e.rss_db[i] for e in asked]) ** 2)) < 1.5
        assert (deviation >= 2.0).all()
    assert found.moving == found.common
    made = found.made_events(400, seed=1, spread_m=50, anywhere=0.2, far=0.0, far_m=1.0, weakest_db=-85)
    assert made is not None
    table = made.draw(300, torch.Generator().manual_seed(0))
    again = made.draw(300, torch.Generator().manual_seed(0))
    assert torch.equal(table.rss_db, again.rss_db)
    heard = table.rss_db > UNHEARD
    strengths = table.rss_db.masked_fill(~heard, -200).amax(1)
    assert bool((table.rss_db[heard & (table.rss_db < strengths.unsqueeze(1))] > -85).all())
    assert bool(heard.any(1).all())
    assert 300 < float(table.truths_m.abs().max()) < 1000
    expected = path_loss_db(found.common, table.receivers_m, table.truths_m)
    assert float((table.rss_db - expected)[heard].mean()) == pytest.approx(0, abs=0.3)


def test_some_made_events_are_far_away():
    found = RadioMap(walk(200, receivers=4, shadowing_db=0.5), PLANE, seed=0)
    made = found.made_events(1000, seed=1, spread_m=50, anywhere=0.3, far=0.2, far_m=5000, weakest_db=-200)
    assert made is not None
    low, high = made.places_m.quantile(0.1, 0), made.places_m.quantile(0.9, 0)
    distance_m = (made.places_m - (low + high) / 2).norm(dim=1)
    # Four of five of them are outside: the walk is 2 km across.
    assert 0.12 < float((distance_m > 1200).float().mean()) < 0.2
    assert 4500 < float(distance_m.max()) < 5200
    table = made.draw(2000, torch.Generator().manual_seed(0))
    distance_m = table.truths_m.norm(dim=1)
    mean_db = table.rss_db.mean(1)
    assert float(mean_db[distance_m > 3000].mean()) < float(mean_db[distance_m < 1000].mean()) - 8


def test_middle_of_few_receivers_reaches_farther():
    table = RssTable.of(EVENTS, PLANE)
    scaling = learned_scaling(table, PLANE, some=(2, 5), most=10)
    (two, farther), (five, less), (most, least) = scaling.reach_by_receivers
    assert (two, five, most, least) == (2, 5, 10, 1)
    assert farther > less > 1
    assert scaling.reach_m == pytest.approx(1.2 * table.farthest_middle_m(10))
    _, places, _ = table.strongest(2)
    assert scaling.reach_m * farther == pytest.approx(1.2 * float(places.mean(1).norm(dim=1).max()), rel=1e-5)


def test_moving_receivers_have_a_path_loss_of_their_own():
    """They hear from the street, 12 dB better than the rest: one line for all of them would say 9 dB too little."""
    louder, north = np.array([12.0, 0, 0, 0]), np.array([[1e-5, 0], [0, 0], [0, 0], [0, 0]])
    events = [
        replace(e, rss_db=e.rss_db + louder, receivers_deg=e.receivers_deg + i * north)
        for i, e in enumerate(walk(200, receivers=4, shadowing_db=0.5))
    ]
    found = RadioMap(events, PLANE, seed=0)
    assert list(found.receivers) == ["r01", "r02", "r03"]
    assert found.moving.at(np.log10(500.0)) == pytest.approx(-8 - 20 * np.log10(500.0), abs=0.5)
    made = found.made_events(50, seed=0, spread_m=50, anywhere=0.2, far=0.0, far_m=1.0, weakest_db=-200)
    assert made is not None
    table = made.draw(200, torch.Generator().manual_seed(0))
    moves = made.fixed[0] < 0
    left = table.rss_db - path_loss_db(found.moving, table.receivers_m, table.truths_m)
    assert int(moves.sum()) == 1
    assert float(left[:, moves].mean()) == pytest.approx(0, abs=0.3)


def test_another_season_changes_gains_and_places_and_keeps_the_truth():
    table = RssTable.of(EVENTS, PLANE)
    loss = PathLoss(slope_db=-20, level_db=-20, sigma_db=0)
    still = Season(gain_share=0, elsewhere_share=0)
    same = season.changed(table, still, loss, torch.Generator().manual_seed(0))
    assert torch.equal(same.rss_db, table.rss_db)
    assert torch.equal(same.receivers_m, table.receivers_m)
    louder = season.changed(
        table, replace(still, gain_share=1.0, broken_share=0), loss, torch.Generator().manual_seed(0)
    )
    deviation = (louder.rss_db - table.rss_db).std(1)
    assert float(deviation.max()) == pytest.approx(8, abs=3)
    assert float(deviation.mean()) == pytest.approx(4, abs=0.5)
    away = replace(still, elsewhere_share=1.0, unknown_db=0, odd_share=0)
    moved = season.changed(table, away, loss, torch.Generator().manual_seed(0))
    there = (moved.receivers_m != table.receivers_m).any(-1)
    assert 0.4 < float(there.float().mean()) < 0.6
    left = moved.rss_db - path_loss_db(loss, moved.receivers_m, table.truths_m)
    assert float(left[there].abs().max()) < 1e-3
    assert torch.equal(moved.truths_m, table.truths_m)


def test_trained_network_is_published_and_ignores_iq_and_ids(tmp_path):
    repository = Repository(tmp_path / "models")
    recipe = replace(QUICK, sigma_factor=1.5, sigma_by_receivers=((5.0, 0.5),))
    trained = run(tmp_path / "run", repository=repository, recipe=recipe)
    assert trained.manifest is not None
    assert trained.manifest.weights == "checkpoint"
    assert trained.manifest.scaling["uncertainty_scale"] == (1.5, 1.5)
    assert trained.manifest.scaling["uncertainty_by_receivers"] == ((5.0, 0.5),)
    kept = repository.manifest("heimdall_net", 1).training
    assert kept is not None
    assert kept["events"] == {"learned": len(by_place(EVENTS).learned), "held_out": len(by_place(EVENTS).held_out)}
    assert kept["recipe"]["epochs"] == QUICK.epochs
    assert len(kept["data_sha256"]) == 64
    session = onnx_file.open_session(tmp_path / "models" / "heimdall_net" / "1" / GRAPH_FILE)
    held = tensors(SPEC, EVENTS[:5])
    plain = onnx_file.run_session(session, held)
    rng = np.random.default_rng(0)
    other = held | {
        "iq_data": rng.normal(0, 0.3, held["iq_data"].shape).astype(np.float32),
        "receiver_ids": rng.integers(0, 10, held["receiver_ids"].shape),
    }
    changed = onnx_file.run_session(session, other)
    for name, array in plain.items():
        assert np.allclose(array, changed[name], rtol=1e-5)
    # What was logged of the places held out is what the published network answers there.
    held_out = list(by_place(EVENTS).held_out)
    there = onnx_file.run_session(session, tensors(SPEC, held_out))
    error_m = PLANE.metres(there["positions"].astype(float)) - PLANE.metres(truths_deg(held_out))
    found = measure(error_m, there["uncertainties"].astype(float))
    assert found.inside is not None
    assert 0 < found.inside[1] < 1
    assert trained.figures["held_inside_68"] == pytest.approx(found.inside[1], abs=1.5 / len(held_out))
    assert trained.figures["held_median_m"] == pytest.approx(found.error_m[0], rel=1e-2)
    assert (tmp_path / "run" / "curves.svg").read_text().startswith("<?xml")
    assert len((tmp_path / "run" / "curves.csv").read_text().splitlines()) == 1 + QUICK.epochs


def test_address_without_register_is_refused_before_training(tmp_path, capsys):
    data, folder = write_table(tmp_path / "data", EVENTS), tmp_path / "run"
    assert main(["train", "heimdall_net", str(folder), "--data", str(data), "--tracking-uri", "here"]) == 1
    assert "without --register" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_refused_before_training(tmp_path, capsys):
    data, folder = write_table(tmp_path / "data", EVENTS), tmp_path / "run"
    assert main(["train", "heimdall_net", str(folder), "--data", str(data), "--device", "gpu"]) == 1
    assert "--device gpu: PyTorch finds none here; name cpu" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("said", [True, {"made by": torch.ones(1)}])
def test_what_others_say_of_their_training_is_not_kept(tmp_path, said):
    file = tmp_path / "theirs.ckpt"
    torch.save({"state_dict": build(SPEC).state_dict(), "encoder_order": "mbconv", "training": said}, file)
    manifest = publish(
        SPEC, Repository(tmp_path / "models"), Source(checkpoint=file), version=None, report=lambda _: None
    )
    assert manifest.training is None


def test_killed_run_goes_on_to_the_same_weights(tmp_path):
    """A real process, killed after some epoch."""
    data = write_table(tmp_path / "data", EVENTS)
    command = [sys.executable, "-m", "rfserve.export.cli", "train", "heimdall_net"]
    options = ["--data", str(data), "--epochs", "6", "--threads", "1", "--made", "0"]
    assert main(["train", "heimdall_net", str(tmp_path / "whole"), *options]) == 0
    killed = tmp_path / "killed"
    with subprocess.Popen(
        [*command, str(killed), *options], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (killed / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    assert main(["train", "heimdall_net", str(killed), *options, "--resume"]) == 0
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "whole", killed)]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    curves = [(folder / "curves.csv").read_text() for folder in (tmp_path / "whole", killed)]
    assert curves[0] == curves[1]


def test_folder_of_another_run_is_not_taken(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(DataError, match="holds a run; go on with --resume"):
        run(tmp_path / "a")
    with pytest.raises(DataError, match="begun with other seed"):
        run(tmp_path / "a", seed=5, resume=True)
    with pytest.raises(DataError, match="holds no run"):
        run(tmp_path / "new", resume=True)


def test_nothing_need_be_held_out(tmp_path):
    trained = run(tmp_path / "a", split=everything(EVENTS))
    assert set(trained.figures) == {"train_nll"}
    with pytest.raises(DataError, match="0 held out"):
        everything(EVENTS).judged  # noqa: B018


def test_every_measured_event_is_learned_once_an_epoch():
    table = RssTable.of(EVENTS, PLANE)
    jitter = Jitter(rss_db=0, level_db=0, direction_db=0, truth_m=0, receiver_dropout=0, strongest_share=0)
    still = Recipe(batch=32, made=0, jitter=jitter, season=Season(gain_share=0, elsewhere_share=0))
    scaling = learned_scaling(table, PLANE, some=(), most=10)
    loss = PathLoss(slope_db=-20, level_db=-20, sigma_db=0)
    training = RssTraining(build(SPEC), scaling, still, measured=table, made=None, held_out=table, loss=loss, seed=0)
    epochs = [torch.cat([batch[-1] for batch in training.batches(epoch)]) for epoch in (0, 1, 0)]
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0].sort(0).values, table.targets(scaling).sort(0).values)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A repository with a network that was trained for a moment."""
    folder: Path = tmp_path_factory.mktemp("trained")
    run(folder / "run", repository=Repository(folder / "models"), recipe=replace(QUICK, epochs=20))
    return folder / "models"


@pytest.mark.server
def test_evaluate_asks_a_serving_triton(published, tmp_path, capsys):
    data, figures = write_table(tmp_path / "data", EVENTS), tmp_path / "figures.json"
    options = ServerOptions(repository=published, grpc_port=0, http_port=0, metrics_port=0)
    with BriefServer(options) as server:
        url = server.grpc_url
        assert main(["evaluate", "--data", str(data), "--url", url, "--json", str(figures)]) == 0
        printed = capsys.readouterr().out
        plots = ["--receivers", "5", "--plots", str(tmp_path / "plots")]
        assert main(["evaluate", "--data", str(data), "--url", url, *plots]) == 0
        # What was found is not lost when it cannot be drawn.
        nowhere = ["--json", str(tmp_path / "kept.json"), "--plots", str(figures / "plots")]
        assert main(["evaluate", "--data", str(data), "--url", url, *nowhere]) == 1
    printed_again, said = capsys.readouterr()
    assert "5 strongest receivers" in printed_again
    assert f"cannot draw into {figures / 'plots'}: Not a directory" in said
    assert (tmp_path / "kept.json").read_text() == figures.read_text()
    assert "| median error, from the nearest learned | nearer than 25 m (" in printed
    assert {f.name for f in (tmp_path / "plots").iterdir()} == {"map.svg", "calibration.svg", "sensitivity.svg"}
    assert "places, 200 m cells, fold 1 of 5" in printed
    found = json.loads(figures.read_text())
    network = found["ways"].pop("heimdall_net/1")
    assert list(found["ways"]) == list(BASELINES)
    assert f"{network['error_m'][0]:.0f} m" in printed
    # What the server answers is what ONNX Runtime computes of the same events.
    split = by_place(EVENTS)
    session = onnx_file.open_session(published / "heimdall_net" / "1" / GRAPH_FILE)
    answers = onnx_file.run_session(session, tensors(SPEC, split.held_out))
    truths = np.array([e.transmitter_deg for e in split.held_out])
    plane = around(np.array([e.transmitter_deg for e in split.learned]))
    error_m = plane.metres(answers["positions"].astype(float)) - plane.metres(truths)
    expected = asdict(measure(error_m, answers["uncertainties"].astype(float)))
    assert network["events"] == expected["events"]
    for name in ("error_m", "inside", "nll", "sigma_m"):
        assert network[name] == pytest.approx(expected[name], rel=1e-3)


def evaluation_of(folder: Path, name: str, events: range, *, model: str = "heimdall_net", version: int = 1) -> Path:
    """A file as `evaluate --json` writes it, with errors that follow from the events' numbers."""
    numbers = np.array(events, float)
    errors = Errors(
        events=tuple(f"event {n}" for n in events),
        error_m={f"{model}/{version}": np.stack([numbers, -numbers], 1), "5-NN": np.stack([2 * numbers, numbers], 1)},
        sigma_m=np.stack([numbers + 1, numbers + 2], 1),
    )
    found = Evaluation.of(errors, split=name, learned=10, model=model, version=version)
    write(found, folder / f"{name}.json")
    return folder / f"{name}.json"


def test_folds_are_pooled_into_one_table(tmp_path, capsys):
    files = [evaluation_of(tmp_path, "a", range(40)), evaluation_of(tmp_path, "b", range(40, 100))]
    whole, plot = tmp_path / "whole.json", tmp_path / "plot.svg"
    assert main(["pool", *map(str, files), "--json", str(whole), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("a; b: 100 events")
    found, expected = json.loads(whole.read_text()), json.loads(evaluation_of(tmp_path, "all", range(100)).read_text())
    assert found["ways"] == expected["ways"]
    assert found["inside"] == expected["inside"]
    assert found["ways"]["heimdall_net/1"]["error_m"][0] == pytest.approx(49.5 * 2**0.5)
    assert "b" in plot.read_text()
    # What cannot be drawn is written all the same.
    again = tmp_path / "again.json"
    assert main(["pool", *map(str, files), "--plot", str(tmp_path / "none" / "x.svg"), "--json", str(again)]) == 1
    assert f"cannot draw {tmp_path / 'none' / 'x.svg'}: No such file" in capsys.readouterr().err
    assert again.read_text() == whole.read_text()
    # What was pooled can be pooled with more.
    more = evaluation_of(tmp_path, "c", range(100, 120), version=2)
    assert main(["pool", str(whole), str(more)]) == 0
    assert "| heimdall_net | " in capsys.readouterr().out


def test_what_cannot_be_pooled_says_why(tmp_path, capsys):
    first = evaluation_of(tmp_path, "a", range(40))
    (tmp_path / "other.json").write_text("{}")
    for second, reason in (
        (evaluation_of(tmp_path, "b", range(30, 50)), "10 of 60 events are in two of the files"),
        (evaluation_of(tmp_path, "c", range(50, 60), model="heimdall_net_pro"), "heimdall_net, heimdall_net_pro"),
        (tmp_path / "other.json", "is no evaluation (KeyError"),
        (tmp_path / "none.json", "cannot read"),
    ):
        assert main(["pool", str(first), str(second)]) == 1
        assert reason in capsys.readouterr().err
