from dataclasses import replace

import numpy as np
import pytest

from rfserve.clients.errors import ClientError, RecordingError
from rfserve.clients.formats.reading import Position
from rfserve.clients.geodesy import distance_m, metres_per_degree
from rfserve.clients.simulation import noise, placement
from rfserve.clients.simulation.emitters import Cw, Nbfm, Ofdm, Qpsk
from rfserve.clients.simulation.levels import levels
from rfserve.clients.simulation.placement import Station
from rfserve.clients.simulation.propagation import PathLoss, free_space_loss_db
from rfserve.clients.simulation.receiver import FrontEnd
from rfserve.clients.simulation.scene import Scene

HERE = Position(latitude_deg=45.07, longitude_deg=7.69)
SEEDS = 200
# A thousandth of a degree north and east.
NEXT = ({"latitude_deg": 45.071}, {"longitude_deg": 7.691})


def many(scene, seeds=SEEDS):
    return [levels(replace(scene, seed=s)) for s in range(seeds)]


def column(truths, name):
    return np.concatenate([getattr(t, name) for t in truths])


@pytest.mark.parametrize(("distance_km", "frequency_mhz"), [(1, 462.7), (10, 433.92), (0.5, 2400)])
def test_free_space_loss_is_that_of_itu_r_p_525(distance_km, frequency_mhz):
    expected = 32.45 + 20 * np.log10(frequency_mhz) + 20 * np.log10(distance_km)
    assert free_space_loss_db(distance_km * 1e3, frequency_mhz * 1e6) == pytest.approx(expected, abs=0.01)


def test_free_space_never_amplifies():
    assert free_space_loss_db(0.0, 462.7e6) == 0
    here = Scene(receivers=(Station(name="roof", position=HERE),), emitter_at=HERE, path=PathLoss(shadowing_db=0))
    assert levels(here).rss_dbm == pytest.approx(30.0)


def test_loss_is_free_space_up_to_the_reference_and_the_exponent_beyond():
    path = PathLoss(exponent=3.5, reference_m=200.0)
    at = path.mean_db(np.array([50.0, 200.0, 2_000.0, 20_000.0]), 462.7e6)
    assert at[0] == pytest.approx(free_space_loss_db(50.0, 462.7e6))
    assert at[1] == pytest.approx(free_space_loss_db(200.0, 462.7e6))
    np.testing.assert_allclose(np.diff(at[1:]), [35, 35])
    np.testing.assert_allclose(
        PathLoss(exponent=2.0).mean_db(np.array([1.0, 1e3, 1e5]), 1e9), free_space_loss_db([1.0, 1e3, 1e5], 1e9)
    )


@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.5])
def test_levels_give_the_exponent_back(exponent):
    truths = many(Scene(receivers=10, path=PathLoss(exponent=exponent, shadowing_db=6.0)))
    decades = np.log10(column(truths, "distance_m") / 100)
    far = decades > 0
    slope, _ = np.polyfit(decades[far], column(truths, "rss_dbm")[far], 1)
    error = 6.0 / np.sqrt(np.sum((decades[far] - decades[far].mean()) ** 2))
    assert error < 0.7
    assert slope == pytest.approx(-10 * exponent, abs=3 * error)


def test_shadowing_is_normal_and_independent_on_every_path():
    truths = many(Scene(receivers=10, path=PathLoss(shadowing_db=8.0)), seeds=400)
    drawn = np.stack([t.shadowing_db for t in truths])
    assert drawn.mean() == pytest.approx(0, abs=4 * 8 / np.sqrt(drawn.size))
    assert drawn.std() == pytest.approx(8, abs=4 * 8 / np.sqrt(2 * drawn.size))
    assert np.mean(np.abs(drawn) < 8) == pytest.approx(0.683, abs=0.03)
    between = np.corrcoef(drawn.T)[~np.eye(10, dtype=bool)]
    assert np.abs(between).max() < 4.5 / np.sqrt(400)
    for truth in truths[:3]:
        np.testing.assert_allclose(truth.rss_dbm, 30 - truth.path_loss_db - truth.shadowing_db)


@pytest.mark.parametrize("rate_hz", [12e3, 250e3, 2.4e6])
def test_thermal_noise_is_ktbf(rate_hz):
    expected = -174 + 10 * np.log10(rate_hz) + 6
    assert noise.thermal_dbm(rate_hz, 6.0) == pytest.approx(expected, abs=0.03)
    truth = levels(Scene(emitter=Cw(), sample_rate_hz=rate_hz, front_end=FrontEnd(noise_figure_db=6.0)))
    assert truth.thermal_dbm == pytest.approx(expected, abs=0.03)
    # 16 bits and a gain that fits: rounding adds nothing to speak of where noise is not far below the signal.
    weak = levels(Scene(emitter=Cw(), sample_rate_hz=rate_hz, eirp_dbm=-100))
    np.testing.assert_allclose(weak.noise_dbm, expected, atol=0.03)


def test_rounding_adds_the_noise_of_the_bits():
    # A full-scale tone over it is 6.02 dB for each bit and 1.76.
    assert noise.quantisation_dbm(np.array([-30.0]), 8) == pytest.approx(-30 - 6.02 * 8 - 1.76, abs=0.01)
    coarse = levels(Scene(front_end=FrontEnd(bits=8, full_scale_dbm=-20.0)))
    np.testing.assert_allclose(coarse.noise_dbm, -20 - 6.02 * 8 - 1.76, atol=0.01)
    np.testing.assert_allclose(coarse.snr_db, coarse.rss_dbm - coarse.noise_dbm)
    assert noise.sum_dbm(-100.0, -100.0) == pytest.approx(-96.99, abs=0.01)


def test_oscillators_are_uniform_within_their_tolerance():
    truths = many(Scene(receivers=10, front_end=FrontEnd(oscillator_ppm=2.0), emitter_offset_hz=1e3))
    ppm = column(truths, "oscillator_ppm")
    assert np.abs(ppm).max() == pytest.approx(2.0, abs=0.02)
    assert ppm.std() == pytest.approx(2 / np.sqrt(3), rel=0.05)
    np.testing.assert_allclose(column(truths, "offset_hz"), 1e3 - ppm * 462.7)


def test_clocks_have_their_standard_deviation():
    errors = column(many(Scene(receivers=10, front_end=FrontEnd(clock_error_s=1e-6))), "clock_error_s")
    assert errors.std() == pytest.approx(1e-6, rel=4 / np.sqrt(2 * errors.size))


def test_gain_is_set_in_whole_decibels_above_what_comes():
    truth = levels(Scene(receivers=10))
    above = truth.full_scale_dbm - noise.sum_dbm(truth.rss_dbm, truth.thermal_dbm)
    assert ((above >= 15) & (above < 16)).all()
    np.testing.assert_array_equal(truth.full_scale_dbm, np.round(truth.full_scale_dbm))


def test_places_are_uniform_over_the_disc():
    truths = many(Scene(receivers=10, radius_m=20_000.0))
    for places in (
        np.concatenate([t.positions[:, :2] for t in truths]),
        np.array([(t.emitter_at.latitude_deg, t.emitter_at.longitude_deg) for t in truths]),
    ):
        away = np.array([distance_m((HERE.latitude_deg, HERE.longitude_deg), p) for p in places]) / 20_000
        assert away.max() < 1.005
        # The square of the distance is uniform from 0 to 1.
        error = 1 / np.sqrt(12 * len(places))
        assert np.mean(away**2) == pytest.approx(0.5, abs=4 * error + 0.005)
        assert np.mean(places > (HERE.latitude_deg, HERE.longitude_deg)) == pytest.approx(0.5, abs=0.1)


def test_distances_are_straight_lines():
    truth = levels(Scene(receivers=10, radius_m=50_000.0))
    emitter = (truth.emitter_at.latitude_deg, truth.emitter_at.longitude_deg)
    for place, away_m in zip(truth.positions, truth.distance_m, strict=True):
        # The sphere of the haversine formula is up to 0.5 % off the ellipsoid.
        assert away_m == pytest.approx(distance_m(emitter, place[:2]), rel=5e-3)
    np.testing.assert_allclose(truth.delay_s, truth.distance_m / 299_792_458)
    north, east = (placement.line_of_sight_m(HERE, replace(HERE, **p)) for p in NEXT)
    assert (north, east) == pytest.approx([m / 1000 for m in metres_per_degree(45.07)], rel=1e-4)
    above = replace(HERE, altitude_m=1500.0)
    assert placement.line_of_sight_m(HERE, above) == pytest.approx(1500.0, abs=1e-6)


def test_more_receivers_leave_the_first_ones_as_they_were():
    few, more = levels(Scene(receivers=3)), levels(Scene(receivers=7))
    for name in ("positions", "shadowing_db", "rss_dbm", "offset_hz"):
        np.testing.assert_array_equal(getattr(few, name), getattr(more, name)[:3])
    assert few.emitter_at == more.emitter_at


def test_emitter_is_drawn_around_the_receivers_that_are_given():
    places = [Position(latitude_deg=-17.0, longitude_deg=x) for x in (179.99, -179.99)]
    given = tuple(Station(name=f"S{n}", position=p) for n, p in enumerate(places))
    truth = levels(Scene(receivers=given, radius_m=100.0))
    assert truth.names == ("S0", "S1")
    assert abs(truth.emitter_at.longitude_deg) > 179.99
    assert truth.distance_m.max() < 1_500


def test_stations_are_those_of_the_file(tmp_path):
    path = tmp_path / "receivers.csv"
    path.write_text(
        "name,latitude_deg,longitude_deg,altitude_m,receiver_id,full_scale_dbm\nroof,45.07,7.69,240,4,-30\n"
    )
    (roof,) = placement.stations(path)
    assert (roof.name, roof.receiver_id, roof.full_scale_dbm) == ("roof", 4, -30.0)
    assert roof.position == replace(HERE, altitude_m=240.0)
    assert levels(Scene(receivers=(roof,))).full_scale_dbm == -30
    path.write_text("name,latitude_deg,longitude_deg\ncar,,\nroof,45,7\n")
    with pytest.raises(ClientError, match=r"no position to car; expected one for each"):
        placement.stations(path)
    with pytest.raises(RecordingError):
        placement.stations(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scene(receivers=0), "receivers: got 0; expected 1 to 10"),
        (lambda: Scene(receivers=11), "receivers: got 11; expected 1 to 10"),
        (lambda: Scene(receivers=()), "receivers: got 0; expected 1 to 10"),
        (lambda: Scene(receivers=(Station(name="a", position=HERE), Station(name="A", position=HERE))), "each once"),
        (lambda: Station(name="a/b", position=HERE), "got the name 'a/b'; expected up to 64"),
        (lambda: Station(name="a", position=Position(latitude_deg=91, longitude_deg=0)), "-90 to 90"),
        (lambda: Station(name="a", position=replace(HERE, altitude_m=1e6)), "altitude: got 1e"),
        (lambda: Scene(emitter_at=Position(latitude_deg=0, longitude_deg=0)), "emitter: got latitude 0°"),
        (lambda: Scene(center=Position(latitude_deg=0, longitude_deg=200)), "centre: got latitude 0°"),
        (lambda: Scene(eirp_dbm=float("nan")), "EIRP: got nan dBm; expected -200 to 150"),
        (lambda: Scene(radius_m=0), "radius: got 0 m; expected 1 to"),
        (lambda: Scene(samples=1023), "samples: got 1023; expected at least 1024"),
        (lambda: Scene(seed=-1), "seed: got -1; expected 0 or more"),
        (lambda: Scene(sample_rate_hz=0), "sample rate: got 0 Hz; expected above 0"),
        (lambda: Scene(center_frequency_hz=-1), "centre frequency: got -1 Hz; expected above 0"),
        (lambda: Scene(emitter_offset_hz=200e3), "offset: got 200000 Hz; expected -125000 to 125000"),
        (lambda: Scene(emitter=Ofdm(bandwidth_hz=300e3)), "sample rate: got 250000 Hz; expected at least 300463"),
        (lambda: Scene(emitter=Cw(), emitter_offset_hz=125e3), "125000 Hz off the centre"),
        (lambda: Scene(sample_rate_hz=10e6, samples=1024), "expected at least 0.000333333 s of nbfm"),
        (lambda: Scene(emitter=Qpsk(bandwidth_hz=100.0)), "expected at least 0.125 s of qpsk"),
        (lambda: Ofdm(bandwidth_hz=0), "bandwidth: got 0 Hz; expected above 0"),
        (lambda: Qpsk(bandwidth_hz=-1), "bandwidth: got -1 Hz; expected above 0"),
        (lambda: Nbfm(deviation_hz=0), "deviation: got 0 Hz; expected above 0"),
        (lambda: Nbfm(audio_hz=100), "audio frequency: got 100 Hz; expected 600 or more"),
        (lambda: PathLoss(exponent=0), "path-loss exponent: got 0; expected 1 to 10"),
        (lambda: PathLoss(shadowing_db=-1), "shadowing: got -1 dB; expected 0 to 40"),
        (lambda: PathLoss(reference_m=0), "reference distance: got 0 m; expected above 0"),
        (lambda: FrontEnd(noise_figure_db=-1), "noise figure: got -1 dB; expected 0 to 60"),
        (lambda: FrontEnd(antenna_gain_dbi=100), "antenna gain: got 100 dBi"),
        (lambda: FrontEnd(oscillator_ppm=-1), "oscillator: got -1 ppm; expected 0 to 1000"),
        (lambda: FrontEnd(clock_error_s=-1), "clock error: got -1 s"),
        (lambda: FrontEnd(full_scale_dbm=float("inf")), "full scale: got inf dBm"),
        (lambda: FrontEnd(bits=17), "bits: got 17; expected 4 to 16"),
    ],
)
def test_scene_is_refused_when_it_cannot_be(make, text):
    with pytest.raises(ClientError) as caught:
        make()
    assert text in str(caught.value)
