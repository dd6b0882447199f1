"""The scaling in the graph against the same arithmetic in float64, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rfserve.export import onnx_file
from rfserve.export.errors import ScalingError
from rfserve.export.publication import Source, build_network
from rfserve.export.scaling import Scaling, moved_home
from rfserve.export.spec import GRAPHS, example

SPEC = GRAPHS["heimdall_net"]
HEIMDALL = {
    "origin": "receivers",
    "features_are_local": True,
    "feature_offset": [12.0, -90.0, 3.0, 100.0, -200.0, 30.0],
    "feature_scale": [7.0, 11.0, 40.0, 9000.0, 8000.0, 120.0],
    "position_offset": [10.0, 20.0, 5.0],
    "position_scale": [9000.0, 8000.0, 120.0],
    "target_offset": [150.0, -250.0],
    "target_scale": [5000.0, 6000.0],
}


def build(tmp_path: Path, content: dict, model: str = "heimdall_net", **options) -> nn.Module:
    file = tmp_path / "scaling.json"
    file.write_text(json.dumps(content))
    return build_network(GRAPHS[model], Source(scaling=file, **options)).module


def reference(network: nn.Module, inputs: dict[str, np.ndarray], s: dict) -> dict[str, np.ndarray]:
    """Heimdall's scaling, row by row, in float64, around the network alone."""
    positions, sigmas = [], []
    for row in range(len(inputs["mask"])):
        on = inputs["mask"][row]
        where = inputs["receiver_positions"][row, on].astype(np.float64)
        per_degree = np.array([111_000.0, 78_000.0, 1.0])
        where[:, 1] = np.where(where[:, 1] < where[0, 1] - 180, where[:, 1] + 360, where[:, 1])
        where[:, 1] = np.where(where[:, 1] > where[0, 1] + 180, where[:, 1] - 360, where[:, 1])
        centre = where.mean(0)
        local = (where - centre) * per_degree
        features = inputs["features"][row, on].astype(np.float64)
        features = np.concatenate([features[:, :3], (features[:, 3:] - centre) * per_degree], -1)
        features = (features - s["feature_offset"]) / s["feature_scale"]
        local = (local - s["position_offset"]) / s["position_scale"]
        with torch.no_grad():
            p, u = network(
                torch.from_numpy(inputs["iq_data"][row : row + 1, on]),
                torch.from_numpy(features[None].astype(np.float32)),
                torch.from_numpy(local[None].astype(np.float32)),
                torch.from_numpy(inputs["receiver_ids"][row : row + 1, on]),
                torch.ones(1, int(on.sum()), dtype=torch.bool),
            )
        metres = p[0].numpy().astype(np.float64) * s["target_scale"] + s["target_offset"]
        degrees = centre[:2] + metres / per_degree[:2]
        degrees[1] = (degrees[1] + 180) % 360 - 180
        positions.append(degrees)
        sigmas.append(u[0].numpy() * np.array(s["target_scale"]))
    return {"positions": np.array(positions), "uncertainties": np.array(sigmas)}


def test_scaling_in_the_graph_equals_heimdalls_arithmetic(tmp_path: Path):
    module = build(tmp_path, HEIMDALL)
    file = tmp_path / "model.onnx"
    onnx_file.write(module, SPEC, file)
    inputs = example(SPEC, batch=5, seed=3)
    inputs["features"][..., 3:] = inputs["receiver_positions"]
    expected = reference(module.network, inputs, HEIMDALL)
    got = onnx_file.run_session(onnx_file.open_session(file), inputs)
    # Degrees in FP32 are 0.4 m apart at 45° north, and the inputs carry that too.
    np.testing.assert_allclose(got["positions"], expected["positions"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["uncertainties"], expected["uncertainties"], rtol=0, atol=0.5)


def test_receivers_on_both_sides_of_the_antimeridian_are_neighbours(tmp_path: Path):
    module = build(tmp_path, HEIMDALL)
    inputs = example(SPEC, batch=1, seed=4, active=4)
    inputs["receiver_positions"][0, :4, 1] = [179.9, -179.9, 179.95, -179.8]
    inputs["features"][..., 3:] = inputs["receiver_positions"]
    shifted = {k: v.copy() for k, v in inputs.items()}
    shifted["receiver_positions"][0, :4, 1] = [9.9, 10.1, 9.95, 10.2]
    shifted["features"][..., 3:] = shifted["receiver_positions"]
    got = onnx_file.run_eager(module, SPEC, inputs)
    there = onnx_file.run_eager(module, SPEC, shifted)
    apart = (float(got["positions"][0, 1] - there["positions"][0, 1]) - 170 + 180) % 360 - 180
    assert abs(apart) < 1e-4
    assert -180 <= got["positions"][0, 1] <= 180
    assert got["positions"][0, 0] == pytest.approx(there["positions"][0, 0], abs=1e-4)


def test_fixed_origin_moves_localization_nets_answer(tmp_path: Path):
    spec = GRAPHS["localization_net"]
    content = {"origin": [45.0, 7.5], "target_scale": [1000.0, 2000.0]}
    module = build(tmp_path, content, "localization_net", variant="tiny")
    inputs = example(spec, batch=2)
    with torch.no_grad():
        position, uncertainty = module.network(torch.from_numpy(inputs["mel_spectrogram"]))
    got = onnx_file.run_eager(module, spec, inputs)
    expected = np.array([45.0, 7.5]) + position.numpy() * [1000.0, 2000.0] / np.array([111_000.0, 78_000.0])
    np.testing.assert_allclose(got["positions"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["uncertainties"], uncertainty.numpy() * [1000.0, 2000.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"feature_scale": [1, 1, 1, 1, 1, 0]}, "above 0"),
        ({"feature_scale": [1, 1]}, "6 finite numbers"),
        ({"target_offset": [1, float("inf")]}, "finite"),
        ({"origin": "centre"}, "'receivers'"),
        ({"origin": [100, 0]}, r"\[latitude, longitude\]"),
        ({"features_are_local": True}, "without an origin"),
        ({"features_are_local": "yes", "origin": "receivers"}, "true or false"),
        ({"featur_scale": [1] * 6}, "unknown entries"),
        ({"target_scale": ["a", 1]}, "numbers"),
        ({"target_scale": "12"}, "2 finite numbers"),
        ({"target_scale": [True, 1]}, "2 finite numbers"),
        ({"target_scale": [10**400, 1]}, "2 finite numbers"),
        ({"feature_offset": [[0.0] * 6]}, "6 finite numbers"),
        ({"feature_offset": None}, "6 finite numbers"),
        ({"origin": {"latitude": 40.76, "longitude": -111.84}}, r"got \{'latitude'.*expected null, 'receivers' or"),
        ({"origin": 5}, "expected null, 'receivers' or"),
        ({"origin": [40.76]}, "expected null, 'receivers' or"),
        ({"origin": [float("nan"), 0.0]}, "in degrees"),
        ({"features_are_local": 1, "origin": "receivers"}, "true or false"),
        ([1, 2], "got a list; expected a JSON object"),
        ({2: 1, "featur": 2}, r"unknown entries \['2', 'featur'\]"),
    ],
)
def test_scaling_that_contradicts_itself_is_refused(content, message):
    with pytest.raises(ScalingError, match=message):
        Scaling.from_dict(content)


def test_spectrogram_network_refuses_an_origin_at_the_receivers(tmp_path: Path):
    with pytest.raises(ScalingError, match="no receiver positions"):
        build(tmp_path, {"origin": "receivers"}, "localization_net", variant="tiny")


def test_unreadable_scaling_file_is_refused(tmp_path: Path):
    for content in (b"{", bytes(range(256))):
        (tmp_path / "s.json").write_bytes(content)
        with pytest.raises(ScalingError, match=r"s\.json"):
            Scaling.read(tmp_path / "s.json")


def test_scaling_survives_its_json():
    scaling = Scaling.from_dict(HEIMDALL)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda v: [np.float64(x) for x in v]])
def test_scaling_of_any_kind_of_numbers_is_of_plain_ones(kind):
    """An origin that is no tuple would be that of the receivers, and what is no plain number loads nowhere safely."""
    given = {n: kind(v) if isinstance(v, list) else v for n, v in (HEIMDALL | {"origin": [45.0, 7.75]}).items()}
    given |= {"reach_m": np.float64(300.0), "uncertainty_by_receivers": kind([[2.0, 0.5], [4.0, 1.0]])}
    scaling = Scaling(**given)
    plain = Scaling.from_dict(
        HEIMDALL | {"origin": [45.0, 7.75], "reach_m": 300.0, "uncertainty_by_receivers": [[2.0, 0.5], [4.0, 1.0]]}
    )
    assert scaling == plain
    assert repr(scaling) == repr(plain)
    assert json.loads(json.dumps(scaling.to_dict())) == json.loads(json.dumps(plain.to_dict()))


def test_origin_in_a_list_is_the_fixed_one(tmp_path: Path):
    held = [torch.from_numpy(a) for a in example(SPEC, batch=1, active=3).values()]
    scaling = Scaling(origin=[45.0, 7.75])
    position, _ = build_network(SPEC, Source(scaling=scaling)).module(*held)
    expected, _ = build(tmp_path, {"origin": [45.0, 7.75]})(*held)
    assert torch.equal(position, expected)


HOME = {"origin": [45.0, 7.75], "target_scale": [1000.0, 1000.0], "position_scale": [500.0, 500.0, 1.0]}


def test_uncertainty_has_a_factor_of_its_own(tmp_path: Path):
    inputs = {name: torch.from_numpy(array) for name, array in example(SPEC, batch=3).items()}
    plain, wide = (build(tmp_path, HOME | more) for more in ({}, {"uncertainty_scale": [1.5, 2.0]}))
    (position, sigma), (same, wider) = plain(*inputs.values()), wide(*inputs.values())
    assert torch.equal(position, same)
    assert torch.allclose(wider, sigma * torch.tensor([1.5, 2.0]))


BY_RECEIVERS = {"uncertainty_by_receivers": [[2, 0.5], [4, 1.0], [5, 2.0]]}


def test_uncertainty_has_a_factor_by_the_number_of_active_receivers(tmp_path: Path):
    inputs = example(SPEC, batch=6, sizes={"receivers": 6})
    inputs["mask"][:] = np.arange(6) < np.arange(1, 7)[:, None]
    held = {name: torch.from_numpy(array) for name, array in inputs.items()}
    plain, changed = (build(tmp_path, HOME | more) for more in ({}, BY_RECEIVERS))
    (position, sigma), (same, scaled) = plain(*held.values()), changed(*held.values())
    assert torch.equal(position, same)
    assert torch.allclose(scaled / sigma, torch.tensor([0.5, 0.5, 0.75, 1.0, 2.0, 2.0]).unsqueeze(1))
    onnx_file.write(changed, SPEC, tmp_path / "model.onnx")
    served = onnx_file.run_session(onnx_file.open_session(tmp_path / "model.onnx"), inputs)
    assert np.allclose(served["uncertainties"], scaled.detach().numpy(), rtol=1e-4)
    scaling = Scaling.from_dict(HOME | BY_RECEIVERS)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


@pytest.mark.parametrize("pairs", [[[2, 0.0]], [[2, 1.0, 3.0]], [[4, 1.0], [2, 0.5]], [[2, "wide"]], [2, 0.5], 0.5])
def test_factors_by_receivers_are_pairs_of_ever_more_receivers(pairs):
    with pytest.raises(ScalingError, match=r"uncertainty_by_receivers|expected numbers"):
        Scaling.from_dict(HOME | {"uncertainty_by_receivers": pairs})


def test_network_without_receivers_has_no_factor_by_them(tmp_path: Path):
    with pytest.raises(ScalingError, match="localization_net sees no receivers"):
        build(tmp_path, {"origin": [45.0, 7.75]} | BY_RECEIVERS, "localization_net", variant="tiny")


def test_sigma_grows_with_the_distance_beyond_the_reach(tmp_path: Path):
    """Receivers 30 km north of the origin, of whom 20 km are beyond; and 5 km, which is within."""
    inputs = example(SPEC, batch=2)
    inputs["mask"][:] = True
    north_deg = np.array([30_000.0, 5_000.0], np.float32) / 111_000
    inputs["receiver_positions"][..., 0] = 45.0 + north_deg[:, None]
    inputs["receiver_positions"][..., 1] = 7.75
    held = {name: torch.from_numpy(array) for name, array in inputs.items()}
    _, sigma = build(tmp_path, HOME)(*held.values())
    module = build(tmp_path, HOME | {"reach_m": 10_000.0})
    _, grown = module(*held.values())
    assert torch.allclose(grown[0], (sigma[0] ** 2 + 20_000.0**2).sqrt(), rtol=1e-3)
    assert torch.equal(grown[1], sigma[1])
    onnx_file.write(module, SPEC, tmp_path / "model.onnx")
    served = onnx_file.run_session(onnx_file.open_session(tmp_path / "model.onnx"), inputs)
    assert np.allclose(served["uncertainties"], grown.detach().numpy(), rtol=1e-4)
    farther = build(tmp_path, HOME | {"reach_m": 10_000.0, "reach_by_receivers": [[4, 3.0], [20, 1.0]]})
    inputs["mask"][0, 4:] = False
    few = {name: torch.from_numpy(array) for name, array in inputs.items()}
    plain, (_, reached) = build(tmp_path, HOME)(*few.values())[1], farther(*few.values())
    # Four receivers reach 30 km, and no number of them less than 10 km.
    assert torch.allclose(reached[0], plain[0], rtol=1e-2)
    assert torch.equal(reached[1], plain[1])
    # Padding is nobody's place.
    inputs["mask"][:, 3:] = False
    inputs["receiver_positions"][:, 3:] = np.nan
    padded = onnx_file.run_session(onnx_file.open_session(tmp_path / "model.onnx"), inputs)
    assert padded["uncertainties"][0] == pytest.approx(20_000.0, rel=0.2)


def test_gate_examines_a_network_where_it_was_trained():
    inputs = example(SPEC, batch=6, seed=4)
    inputs["receiver_positions"][~inputs["mask"]] = np.nan
    scaling = Scaling.from_dict(HOME | {"origin": [-33.0, 151.0], "reach_m": 2000.0})
    moved = moved_home(scaling, inputs)
    metres = (moved["receiver_positions"][..., :2] - (-33.0, 151.0)) * scaling.metres_per_degree
    away = np.abs(metres[inputs["mask"]] / 500.0)
    assert 0.3 < np.median(away) < 2
    assert away.max() < 10
    assert inputs["receiver_positions"][0, 0, 0] > 0
    assert moved_home(Scaling(), inputs)["features"] is inputs["features"]
    # The front end of an ensemble makes the features.
    raw = {name: inputs[name] for name in ("receiver_positions", "mask")}
    np.testing.assert_array_equal(moved_home(scaling, raw)["receiver_positions"], moved["receiver_positions"])


@pytest.mark.parametrize(
    "changed",
    [
        {"reach_m": 0.0},
        {"reach_m": 5.0, "origin": "receivers"},
        {"reach_m": "far"},
        {"reach_by_receivers": [[2, 1.5]]},
        {"reach_m": 5.0, "reach_by_receivers": [[2, 0.0]]},
    ],
)
def test_reach_needs_a_place_and_a_size(changed):
    with pytest.raises(ScalingError, match=r"reach_m|far|reach_by_receivers"):
        Scaling.from_dict(HOME | changed)
