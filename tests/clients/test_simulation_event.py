import json

import numpy as np
import pytest
from sigmf.sigmffile import SigMFFile

from rfserve.clients import receivers
from rfserve.clients.alignment import align
from rfserve.clients.cli import main
from rfserve.clients.errors import ClientError
from rfserve.clients.geodesy import distance_m
from rfserve.clients.recording import read_event
from rfserve.clients.simulation.event import write
from rfserve.clients.simulation.propagation import PathLoss
from rfserve.clients.simulation.scene import Scene
from rfserve.clients.simulation.simulator import START_NS, simulate
from rfserve.clients.synthetic_event import SyntheticEvent
from rfserve.clients.synthetic_event import write as write_small

FILE = "name,latitude_deg,longitude_deg,altitude_m,receiver_id\nroof_a,45.07,7.69,240,4\nhill-b,45.10,7.60,500,0\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A scene on disk; not to be changed."""
    return write(Scene(receivers=6), tmp_path_factory.mktemp("scene"))


def same_files(a, b):
    names = sorted(p.name for p in a.iterdir())
    return names == sorted(p.name for p in b.iterdir()) and all(
        (a / name).read_bytes() == (b / name).read_bytes() for name in names
    )


def test_scene_reads_back_bit_for_bit_and_aligns(written):
    made = simulate(Scene(receivers=6))
    known = receivers.read(written.parent / "receivers.csv")
    recordings = read_event([written], receivers=known)
    for recording, iq, place, full_scale_dbm in zip(
        recordings, made.iq, made.positions, made.full_scale_dbm, strict=True
    ):
        np.testing.assert_array_equal(recording.observe(0, recording.samples).iq, iq)
        assert (recording.latitude_deg, recording.longitude_deg, recording.altitude_m) == tuple(place)
        assert (recording.full_scale_dbm, recording.start_ns) == (full_scale_dbm, START_NS)
        assert (recording.sample_rate_hz, recording.center_frequency_hz) == (250e3, 462.7e6)
    event = align(recordings)
    assert [o.iq.size for o in event] == [16384] * 6
    assert len(align(read_event([written]))) == 6


def test_scene_is_valid_sigmf(written):
    metas = list(written.parent.glob("*.sigmf-meta"))
    assert len(metas) == 6
    for meta in metas:
        SigMFFile(metadata=json.loads(meta.read_text())).validate()


def test_truth_has_what_the_samples_have(written):
    truth = json.loads((written.parent / "truth.json").read_text())
    made = simulate(Scene(receivers=6))
    emitter = (truth["emitter"]["lat"], truth["emitter"]["lon"])
    assert emitter == (made.emitter_at.latitude_deg, made.emitter_at.longitude_deg)
    for number, receiver in enumerate(truth["receivers"]):
        assert receiver["rss_dbm"] == made.rss_dbm[number]
        assert receiver["snr_db"] == pytest.approx(receiver["rss_dbm"] - receiver["noise_dbm"])
        assert receiver["carrier_offset_hz"] == pytest.approx(-receiver["oscillator_ppm"] * 462.7)
        lost = receiver["path_loss_db"] + receiver["shadowing_db"]
        assert receiver["rss_dbm"] == pytest.approx(30 - lost)
        away_m = distance_m((receiver["lat"], receiver["lon"]), emitter)
        assert receiver["distance_km"] * 1000 == pytest.approx(away_m, rel=5e-3)
        assert (written.parent / f"{receiver['recording']}.sigmf-data").stat().st_size == 16384 * 4
    assert truth["scene"]["emitter"] == {
        "kind": "nbfm",
        "bandwidth_hz": 11e3,
        "deviation_hz": 2500.0,
        "audio_hz": 3000.0,
    }
    assert truth["scene"]["path"] == {"exponent": 3.0, "shadowing_db": 6.0, "reference_m": 100.0}


def test_truth_of_the_small_event_stands_in_that_of_a_scene(written, collection):
    small, scene = (json.loads((p.parent / "truth.json").read_text()) for p in (collection, written))
    assert small.keys() <= scene.keys()
    assert small["receivers"][0].keys() <= scene["receivers"][0].keys()


def test_scene_is_written_alike_when_the_seed_is(tmp_path):
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        write(Scene(receivers=2, seed=seed), tmp_path / name)
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert not same_files(tmp_path / "a", tmp_path / "c")
    # And in place of the one before.
    write(Scene(receivers=2, seed=5), tmp_path / "a")
    assert same_files(tmp_path / "a", tmp_path / "c")


def test_scene_is_refused_when_its_folder_is_a_file(tmp_path):
    path = tmp_path / "taken"
    path.write_text("")
    with pytest.raises(ClientError, match="cannot write the event"):
        write(Scene(), path)


def test_command_makes_the_small_event_without_options_of_a_scene(tmp_path):
    assert main(["synthesize", str(tmp_path / "a")]) == 0
    write_small(SyntheticEvent(), tmp_path / "b")
    assert same_files(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("kind", ["nbfm", "cw", "ofdm", "qpsk"])
def test_command_makes_a_scene_of_every_emitter(tmp_path, capsys, kind):
    assert main(["synthesize", str(tmp_path), "--emitter", kind, "--receivers", "3", "--seed", "7"]) == 0
    assert len(align(read_event([tmp_path / capsys.readouterr().out.strip()]))) == 3
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert (truth["scene"]["emitter"]["kind"], truth["scene"]["seed"]) == (kind, 7)


def test_command_sets_everything(tmp_path):
    path = tmp_path / "receivers.csv"
    path.write_text(FILE)
    options = (
        f"--receivers-file {path} --emitter ofdm --bandwidth-hz 500e3 --eirp-dbm 40 --emitter-at=45.08,7.65,300 "
        "--center 45.0,7.6 --radius-m 500 --path-loss-exponent 3.5 --shadowing-db 4 --reference-m 50 "
        "--noise-figure-db 5 --antenna-gain-dbi 2 --oscillator-ppm 0.25 --clock-error-s 1e-6 --bits 12 "
        "--full-scale-dbm 10 --rate-hz 1e6 --samples 4096 --center-frequency-hz 868e6 --emitter-offset-hz 1e3"
    )
    assert main(["synthesize", str(tmp_path / "made"), *options.split()]) == 0
    truth = json.loads((tmp_path / "made" / "truth.json").read_text())
    scene = truth["scene"]
    assert truth["emitter"] == {"lat": 45.08, "lon": 7.65, "alt_m": 300.0}
    assert scene["emitter"] == {"kind": "ofdm", "bandwidth_hz": 500e3}
    assert scene["path"] == {"exponent": 3.5, "shadowing_db": 4.0, "reference_m": 50.0}
    assert scene["front_end"] == {
        "noise_figure_db": 5.0,
        "antenna_gain_dbi": 2.0,
        "oscillator_ppm": 0.25,
        "clock_error_s": 1e-6,
        "full_scale_dbm": 10.0,
        "bits": 12,
    }
    names = ("eirp_dbm", "radius_m", "sample_rate_hz", "samples", "center_frequency_hz", "emitter_offset_hz")
    assert [scene[n] for n in names] == [40.0, 500.0, 1e6, 4096, 868e6, 1e3]
    assert scene["center"] == {"latitude_deg": 45.0, "longitude_deg": 7.6, "altitude_m": 0.0}
    assert [r["id"] for r in truth["receivers"]] == ["roof_a", "hill-b"]
    known = receivers.read(tmp_path / "made" / "receivers.csv")
    read = read_event([tmp_path / "made" / "synthetic.sigmf-collection"], receivers=known)
    assert [(r.receiver_id, r.altitude_m, r.full_scale_dbm) for r in read] == [(4, 240.0, 10.0), (0, 500.0, 10.0)]


def test_command_sets_the_deviation_by_carson(tmp_path):
    assert main(["synthesize", str(tmp_path), "--bandwidth-hz", "16e3"]) == 0
    assert json.loads((tmp_path / "truth.json").read_text())["scene"]["emitter"]["deviation_hz"] == 5_000


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--emitter", "cw", "--bandwidth-hz", "10"], "error: bandwidth: got 10 Hz for cw; expected none"),
        (["--bandwidth-hz", "6000"], "error: bandwidth: got 6000 Hz for nbfm; expected above 6000 Hz"),
        (["--emitter", "am"], "invalid choice: 'am'"),
        (["--emitter-at", "45"], "got '45'; expected latitude,longitude in degrees"),
        (["--emitter-at", "45,7,1,2"], "more than three numbers"),
        (["--emitter-at", "95,7"], "expected -90 to 90"),
        (["--receivers", "4", "--receivers-file", "x.csv"], "not allowed with argument"),
        (["--receivers-file", "none.csv"], "error: cannot read none.csv"),
        (["--receivers", "11", "--emitter", "cw"], "error: receivers: got 11; expected 1 to 10"),
        (["--seed", "-1", "--emitter", "cw"], "error: seed: got -1; expected 0 or more"),
        (["--path-loss-exponent", "0"], "error: path-loss exponent: got 0; expected 1 to 10"),
        (["--full-scale-dbm", "-100"], "give a full scale of"),
        (["--rate-hz", "10e3"], "error: sample rate: got 10000 Hz; expected at least 11462.7 Hz"),
    ],
)
def test_command_says_why_a_scene_cannot_be(tmp_path, capsys, arguments, text):
    try:
        code = main(["synthesize", str(tmp_path / "made"), *arguments])
    except SystemExit as exit_:
        code = exit_.code
    assert code != 0
    assert text in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_shadowing_can_be_left_out():
    made = simulate(Scene(path=PathLoss(shadowing_db=0.0)))
    np.testing.assert_array_equal(made.shadowing_db, 0)
