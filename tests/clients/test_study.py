"""What fixes lose as scenes get worse: which scenes are asked about, and what is made of the answers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rfserve.clients import cli
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.geodesy import metres_per_degree
from rfserve.clients.simulation import study
from rfserve.clients.simulation.levels import levels
from rfserve.clients.simulation.placement import Station
from rfserve.clients.simulation.scene import Scene

HERE = Position(latitude_deg=45.07, longitude_deg=7.69)
STATIONS = tuple(
    Station(name=f"s{i}", position=Position(latitude_deg=45.06 + 0.01 * i, longitude_deg=7.7)) for i in range(5)
)
SCENE = Scene(emitter_at=HERE, receivers=3, samples=4096)
BY_NAME = {s.name: s for s in study.STUDIES}


def positions_of(request):
    sent = {i.name: raw for i, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
    return np.frombuffer(sent["receiver_positions"], np.float32).reshape(-1, 3)


def steps_of(scene, url, *names, scenes=2):
    with LocalizationClient(url, timeout_s=10) as client:
        return list(study.run(scene, client, scenes=scenes, studies=[BY_NAME[n] for n in names], concurrency=1))


def test_figures_are_those_of_the_answers(serve, answer):
    """0.01 degrees of latitude are 1,111 m, and 0.01 degrees of longitude 788 m there."""
    url = serve(answer(positions=((45.08, 7.70),), uncertainties=((900.0, 600.0),))).url
    first, *_ = steps_of(SCENE, url, "clocks")
    assert first.error_m == pytest.approx((1362, 1362, 1362), abs=2)
    assert first.sigma_m == pytest.approx(np.hypot(900, 600))
    # (1111/900)² + (788/600)² = 3.25, and the ellipse of 68 % ends at 2.28.
    assert first.inside == 0
    assert first.scenes == 2
    wider = serve(answer(positions=((45.08, 7.70),), uncertainties=((1300.0, 600.0),))).url
    # (1111/1300)² + (788/600)² = 2.45 is still outside.
    assert steps_of(SCENE, wider, "clocks")[0].inside == 0
    widest = serve(answer(positions=((45.08, 7.70),), uncertainties=((1300.0, 650.0),))).url
    assert steps_of(SCENE, widest, "clocks")[0].inside == 1


def test_doubtful_fixes_are_counted(serve, answer):
    url = serve(answer(uncertainties=((90e3, 90e3),)), answer(uncertainties=((90.0, 90.0),))).url
    assert steps_of(SCENE, url, "clocks")[0].doubted == 0.5


def test_each_study_changes_what_it_says_and_nothing_else():
    truth = levels(SCENE)
    louder = levels(BY_NAME["snr"].scene(SCENE, 10))
    np.testing.assert_allclose(louder.snr_db - truth.snr_db, 10, atol=0.1)
    detuned = levels(BY_NAME["oscillators"].scene(SCENE, 20))
    np.testing.assert_allclose(detuned.oscillator_ppm, 40 * truth.oscillator_ppm)
    late = levels(BY_NAME["clocks"].scene(SCENE, 10))
    assert 0.5e-3 < np.abs(late.clock_error_s).max() < 50e-3
    for other in (louder, detuned, late):
        np.testing.assert_array_equal(other.distance_m, truth.distance_m)
        np.testing.assert_array_equal(other.shadowing_db, truth.shadowing_db)


def test_emitter_is_as_far_as_is_said_in_another_direction_in_each_scene():
    scenes = [replace(SCENE, emitter_at=None, receivers=STATIONS, seed=seed) for seed in range(30)]
    far = [BY_NAME["distance"].scene(scene, 3).emitter_at for scene in scenes]
    # The stations are 0.01 degrees apart on a meridian, around 45.08.
    away = np.array([(p.latitude_deg - 45.08, p.longitude_deg - 7.7) for p in far]) * metres_per_degree(45.08)
    np.testing.assert_allclose(np.hypot(*away.T), 3000, rtol=1e-3)
    assert (np.abs(away.mean(0)) < 1000).all()
    near = [BY_NAME["distance"].scene(scene, 1).emitter_at for scene in scenes]
    assert near[0].latitude_deg - 45.08 == pytest.approx((far[0].latitude_deg - 45.08) / 3)


def test_fewer_receivers_are_others_in_each_scene():
    fewer = BY_NAME["receivers"].scene
    scenes = [replace(SCENE, receivers=STATIONS, seed=seed) for seed in range(30)]
    kept = [tuple(s.name for s in fewer(scene, 2).receivers) for scene in scenes]
    assert len(set(kept)) > 5
    assert all(len(names) == 2 for names in kept)
    assert fewer(scenes[0], 2) == fewer(scenes[0], 2)
    assert set(fewer(scenes[0], 2).receivers) < set(fewer(scenes[0], 3).receivers)
    assert fewer(SCENE, 2).receivers == 2
    assert BY_NAME["receivers"].of(SCENE) == (1, 2, 3)


def test_misplaced_receivers_are_told_to_stand_elsewhere(serve, answer):
    server = serve(answer())
    steps_of(SCENE, server.url, "positions", scenes=1)
    right, *wrong = (positions_of(r) for r in server.requests)
    active = slice(0, 3)
    np.testing.assert_allclose(right[active], levels(SCENE).positions, atol=1e-5)
    moved = [np.abs(w[active, :2] - right[active, :2]).mean() * 111e3 for w in wrong]
    for step, metres in zip((25, 50, 100, 200, 400), moved, strict=True):
        assert 0.3 < metres / step < 1.6
    # The same chance at each step.
    assert moved[-1] / moved[-2] == pytest.approx(2, rel=0.01)


def test_what_cannot_be_simulated_is_said_before_anything_is_asked(serve, answer):
    server = serve(answer())
    narrow = replace(SCENE, sample_rate_hz=12e3, front_end=replace(SCENE.front_end, oscillator_ppm=0))
    with pytest.raises(ClientError, match="oscillators up to"):
        steps_of(narrow, server.url, "clocks", "oscillators")
    with pytest.raises(ClientError, match="scenes: got 0"):
        steps_of(SCENE, server.url, "clocks", scenes=0)
    assert not server.requests


def test_command_prints_draws_and_writes(serve, answer, tmp_path, capsys):
    url, figures, plot = serve(answer()).url, tmp_path / "study.json", tmp_path / "study.svg"
    options = ["--receivers", "2", "--samples", "4096", "--scenes", "2", "--study", "snr", "--study", "receivers"]
    assert cli.main(["study", "--url", url, *options, "--json", str(figures), "--plot", str(plot)]) == 0
    found = json.loads(figures.read_text())
    assert [(s["study"], s["at"]) for s in found["steps"]] == [
        *(("receivers", n) for n in (1, 2)),
        *(("snr", d) for d in (-40, -30, -20, -10, 0, 10)),
    ]
    assert found["scene"]["samples"] == 4096
    assert capsys.readouterr().out.count("\n| snr | ") == 6
    drawn = plot.read_text()
    assert "SNR of the receivers" in drawn
    assert "ppm" not in drawn
    assert cli.main(["study", "--url", url, *options, "--plot", str(tmp_path / "no" / "folder.svg")]) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.server
def test_real_server_answers_a_study(server, capsys):
    options = ["--scenes", "2", "--study", "clocks", "--model", "locate_pro"]
    assert cli.main(["study", "--url", server.grpc_url, *options]) == 0
    assert capsys.readouterr().out.count("\n| clocks | ") == 4
