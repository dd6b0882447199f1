"""The trained networks that the repository holds: whole, and right about transmitters that they have never seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rfserve.clients import request
from rfserve.clients.simulation import placement
from rfserve.clients.simulation.levels import levels
from rfserve.clients.simulation.propagation import PathLoss
from rfserve.clients.simulation.scene import Scene
from rfserve.clients.simulation.simulator import simulate
from rfserve.export import onnx_file, verification
from rfserve.export.manifest import GRAPH_FILE
from rfserve.export.networks.catalog import HEIMDALL_NETS, build
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS
from rfserve.export.training import powder
from rfserve.export.training.accuracy import Accuracy, measure
from rfserve.export.training.plane import around
from rfserve.export.training.rss_event import RssEvent, truths_deg
from rfserve.export.training.rss_tensors import NOISE_DB, tensors

ROOT = Path(__file__).parents[2]
REPOSITORY = Repository(ROOT / "model_repository")
# As `make demo` makes it: where the networks were trained, with that place's path loss.
CAMPUS = Scene(
    receivers=placement.stations(ROOT / "clients" / "campus.csv"),
    eirp_dbm=-10.0,
    path=PathLoss(exponent=2.4, shadowing_db=6.0),
    radius_m=700.0,
)


def session_of(model: str):
    return onnx_file.open_session(ROOT / "model_repository" / model / "1" / GRAPH_FILE)


def located(model: str, events: list[RssEvent]) -> Accuracy:
    """The accuracy of a published network, through ONNX Runtime."""
    found = onnx_file.run_session(session_of(model), tensors(GRAPHS[model], events))
    plane = around(truths_deg(events))
    error_m = plane.metres(found["positions"].astype(float)) - plane.metres(truths_deg(events))
    return measure(error_m, found["uncertainties"].astype(float))


def simulated(scene: Scene) -> RssEvent:
    truth = levels(scene)
    at = truth.emitter_at
    return RssEvent(
        time=f"seed {scene.seed}",
        names=truth.names,
        rss_db=truth.snr_db + NOISE_DB,
        receivers_deg=truth.positions[:, :2],
        transmitter_deg=np.array([at.latitude_deg, at.longitude_deg]),
    )


@pytest.mark.parametrize("model", HEIMDALL_NETS)
def test_published_version_is_as_it_was_published_and_trained(model):
    assert verification.problems(REPOSITORY, model) == []
    assert REPOSITORY.manifest(model, 1).weights == "checkpoint"
    assert (ROOT / "model_repository" / model / "MODEL_CARD.md").exists()


@pytest.mark.parametrize("model", HEIMDALL_NETS)
def test_simulated_transmitters_are_located_where_they_stand(model):
    """Other physics than it learned from: log-distance path loss and independent shadowing, at fixed receivers."""
    found = located(model, [simulated(replace(CAMPUS, seed=seed)) for seed in range(200)])
    # To say the middle of the campus each time is 513 m off.
    assert found.error_m[0] < 350
    assert found.inside is not None
    assert found.inside[2] > 0.75


@pytest.mark.parametrize("model", HEIMDALL_NETS)
def test_sigma_grows_with_the_distance_of_emitters_outside(model):
    """Receivers where they were in training: only their strengths say that it is far away."""
    found = {}
    for distance_m in (500.0, 2000.0, 3000.0, 5000.0):
        places = [placement.at(CAMPUS.middle, distance_m, np.pi * turn / 12) for turn in range(24)]
        scenes = [replace(CAMPUS, seed=seed, emitter_at=place) for seed, place in enumerate(places)]
        found[distance_m] = located(model, [simulated(scene) for scene in scenes])
    near = found.pop(500.0)
    for far in found.values():
        assert far.inside is not None
        assert far.inside[2] > 0.8
        assert far.sigma_m > 4 * near.sigma_m


@pytest.mark.parametrize("model", HEIMDALL_NETS)
def test_recorded_iq_is_located_through_the_front_end(model):
    scene = replace(CAMPUS, seed=3)
    row = request.tensors(request.ensemble("locate"), [simulate(scene).observations])
    front = GRAPHS["iq_features"]
    with torch.no_grad():
        iq, features = build(front)(*(torch.from_numpy(row[t.name]) for t in front.inputs))
    inputs = {name: row[name] for name in ("receiver_positions", "receiver_ids", "mask")}
    inputs |= {"iq_data": iq.numpy(), "features": features.numpy()}
    found = onnx_file.run_session(session_of(model), inputs)
    event = simulated(scene)
    expected = onnx_file.run_session(session_of(model), tensors(GRAPHS[model], [event]))
    plane = around(truths_deg([event]))
    apart_m = plane.metres(found["positions"].astype(float)) - plane.metres(expected["positions"].astype(float))
    # What the front end measures of the signal-to-noise ratio is a few tenths of a dB off.
    assert np.hypot(*apart_m[0]) < 60


@pytest.mark.recordings
@pytest.mark.parametrize("model", HEIMDALL_NETS)
def test_real_transmitters_are_located(model, recordings):
    """It has learned from these: what this sees is an axis that is swapped, or a unit that is wrong."""
    found = located(model, powder.read(recordings / "powder-rss" / "events.json"))
    assert found.error_m[0] < 120
    assert found.inside is not None
    # It is sized for places that were not learned, where errors are some times those here.
    assert found.inside[1] > 0.5
    assert found.sigma_m < 5 * found.error_m[0]


@pytest.mark.parametrize("model", HEIMDALL_NETS)
def test_places_that_it_does_not_know_get_a_wide_sigma(model):
    event = simulated(replace(CAMPUS, seed=1))
    away = replace(event, receivers_deg=event.receivers_deg + 1.0, transmitter_deg=event.transmitter_deg + 1.0)
    here, there = (
        onnx_file.run_session(session_of(model), tensors(GRAPHS[model], [e]))["uncertainties"] for e in (event, away)
    )
    assert here.max() < 2000
    assert there.min() > 50_000
