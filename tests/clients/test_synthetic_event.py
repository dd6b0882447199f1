import json
from dataclasses import replace

import numpy as np
import pytest
from sigmf.sigmffile import SigMFFile

from rfserve.clients.alignment import align
from rfserve.clients.errors import ClientError
from rfserve.clients.geodesy import distance_m
from rfserve.clients.recording import read_event
from rfserve.clients.simulation.emitters import ROLL_OFF
from rfserve.clients.simulation.propagation import SPEED_OF_LIGHT_M_S
from rfserve.clients.synthetic_event import EMITTER_DEG, SyntheticEvent, receive, write

QUIET = SyntheticEvent(snr_db=80.0, offset_hz=0.0, radius_m=200_000.0)


def read_truth(folder):
    return json.loads((folder / "truth.json").read_text())


def test_event_reads_back_as_it_was_made(collection):
    made = receive(SyntheticEvent())
    for recording, reception in zip(read_event([collection]), made, strict=True):
        stored = recording.observe(0, recording.samples).iq
        assert np.abs(stored - reception.iq).max() < 1 / 32767
        assert np.abs(stored).max() < 1
        assert recording.latitude_deg == reception.latitude_deg


def test_event_is_valid_sigmf(collection):
    for meta in collection.parent.glob("*.sigmf-meta"):
        SigMFFile(metadata=json.loads(meta.read_text())).validate()


def test_distances_are_those_between_the_positions(collection):
    for receiver in read_truth(collection.parent)["receivers"]:
        away_m = distance_m((receiver["lat"], receiver["lon"]), EMITTER_DEG)
        # The sphere of the haversine formula is up to 0.3 % off the ellipsoid.
        assert receiver["distance_km"] * 1000 == pytest.approx(away_m, rel=5e-3)
        assert receiver["delay_us"] == pytest.approx(receiver["distance_km"] * 1e9 / SPEED_OF_LIGHT_M_S)


def test_delays_between_receivers_are_those_of_light():
    received = receive(QUIET)
    spectra = [np.fft.fft(r.iq) for r in received]
    frequency = np.fft.fftfreq(QUIET.samples, 1 / QUIET.sample_rate_hz)
    inside = np.abs(frequency) < QUIET.bandwidth_hz / 4
    for reception, spectrum in zip(received[1:], spectra[1:], strict=True):
        cross = (spectra[0] * np.conj(spectrum))[inside]
        order = np.argsort(frequency[inside])
        slope = np.polyfit(frequency[inside][order], np.unwrap(np.angle(cross[order])), 1)[0]
        expected_s = (reception.distance_m - received[0].distance_m) / SPEED_OF_LIGHT_M_S
        assert abs(expected_s) > 2e-6
        # A thousandth of a sample.
        assert slope / (2 * np.pi) == pytest.approx(expected_s, abs=1e-3 / QUIET.sample_rate_hz)


def test_cuts_correlate_at_the_delay_in_whole_samples(tmp_path):
    cut = align(read_event([write(QUIET, tmp_path)]))
    truth = read_truth(tmp_path)["receivers"]
    for observation, receiver in zip(cut[1:], truth[1:], strict=True):
        correlation = np.abs(np.fft.ifft(np.fft.fft(observation.iq) * np.conj(np.fft.fft(cut[0].iq))))
        lag = (int(np.argmax(correlation)) + 8192) % 16384 - 8192
        assert lag == pytest.approx(receiver["delay_us"] - truth[0]["delay_us"], abs=0.51)


def test_carrier_phase_turns_with_the_path():
    first, second = receive(replace(QUIET, receivers=2))
    cross = np.vdot(_undelayed(first), _undelayed(second))
    expected = -2 * np.pi * QUIET.center_frequency_hz * (second.delay_s - first.delay_s)
    assert np.angle(cross * np.exp(-1j * expected)) == pytest.approx(0, abs=0.01)


def _undelayed(reception):
    frequency = np.fft.fftfreq(reception.iq.size, 1 / QUIET.sample_rate_hz)
    return np.fft.ifft(np.fft.fft(reception.iq) * np.exp(2j * np.pi * frequency * reception.delay_s))


def test_levels_follow_free_space_and_the_stated_snr():
    event = SyntheticEvent(snr_db=20.0, offset_hz=0.0)
    received = receive(event)
    frequency = np.abs(np.fft.fftfreq(event.samples, 1 / event.sample_rate_hz))
    for reception in received:
        power = np.abs(np.fft.fft(reception.iq)) ** 2
        noise = power[frequency > 0.6 * event.bandwidth_hz].mean() * event.samples
        snr_db = 10 * np.log10((power.sum() - noise) / noise)
        assert snr_db == pytest.approx(reception.snr_db, abs=0.2)
    nearest, farthest = (pick(received, key=lambda r: r.distance_m) for pick in (min, max))
    assert nearest.snr_db == pytest.approx(20.0)
    drop_db = 20 * np.log10(farthest.distance_m / nearest.distance_m)
    assert nearest.snr_db - farthest.snr_db == pytest.approx(drop_db)


def test_offsets_are_those_of_the_truth():
    event = SyntheticEvent(snr_db=60.0)
    frequency = np.fft.fftfreq(event.samples, 1 / event.sample_rate_hz)
    for reception in receive(event):
        # QPSK to the fourth power has a line at four times the offset.
        time_s = np.arange(event.samples) / event.sample_rate_hz
        shifted = reception.iq * np.exp(-2j * np.pi * reception.offset_hz * time_s)
        line = np.abs(np.fft.fft(_matched(shifted, event) ** 4))
        near = np.abs(frequency) < 2000
        assert frequency[near][np.argmax(line[near])] == pytest.approx(0, abs=62)
        assert abs(reception.offset_hz) <= event.offset_hz


def _matched(iq, event):
    """After the matched filter."""
    count = round(event.samples * event.bandwidth_hz / (1 + ROLL_OFF) / event.sample_rate_hz)
    rate = np.abs(np.fft.fftfreq(event.samples, 1 / event.samples)) / count
    shape = np.cos(np.pi / 2 * np.clip((rate - (1 - ROLL_OFF) / 2) / ROLL_OFF, 0, 1))
    return np.fft.ifft(np.fft.fft(iq) * shape)


def test_emission_is_qpsk_after_the_matched_filter():
    (only,) = receive(replace(QUIET, receivers=1))
    matched = _matched(_undelayed(only), QUIET)
    count = round(QUIET.samples * QUIET.bandwidth_hz / (1 + ROLL_OFF) / QUIET.sample_rate_hz)
    # One value a symbol: alias the spectrum onto the symbol rate.
    bins = np.fft.fftfreq(QUIET.samples, 1 / QUIET.samples).astype(int)
    folded = np.zeros(count, complex)
    np.add.at(folded, bins % count, np.fft.fft(matched))
    symbols = np.fft.ifft(folded)
    symbols /= np.abs(symbols).mean()
    turned = symbols * np.exp(-0.25j * np.angle(np.mean(symbols**4)))
    nearest = np.exp(0.5j * np.pi * np.round(np.angle(turned) / (np.pi / 2)))
    assert np.sqrt(np.mean(np.abs(turned - nearest) ** 2)) < 0.01
    counts = np.bincount(np.round(np.angle(nearest) / (np.pi / 2)).astype(int) % 4)
    assert counts.min() > count / 5


def test_emission_keeps_to_its_bandwidth():
    (only,) = receive(replace(QUIET, receivers=1))
    power = np.abs(np.fft.fft(only.iq)) ** 2
    frequency = np.abs(np.fft.fftfreq(QUIET.samples, 1 / QUIET.sample_rate_hz))
    assert power[frequency > QUIET.bandwidth_hz / 2].sum() < 1e-6 * power.sum()


def test_event_is_the_same_when_the_seed_is(tmp_path):
    for name in ("a", "b"):
        write(SyntheticEvent(seed=4), tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(files) == 4 * 2 + 2
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert receive(SyntheticEvent(seed=5))[0].distance_m != receive(SyntheticEvent(seed=4))[0].distance_m


def test_event_replaces_the_one_before_it(tmp_path):
    write(SyntheticEvent(seed=1), tmp_path)
    assert len(read_event([write(SyntheticEvent(seed=2), tmp_path)])) == 4


def test_event_is_small(collection):
    assert sum(p.stat().st_size for p in collection.parent.iterdir()) < 300_000


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"receivers": 0}, "1 to 10"),
        ({"receivers": 11}, "1 to 10"),
        ({"samples": 1023}, "at least 1024"),
        ({"seed": -1}, "0 or more"),
        ({"bandwidth_hz": 2e6}, "up to the sample rate"),
        ({"radius_m": 0.0}, "above 0"),
    ],
)
def test_event_is_refused_when_it_cannot_be_made(given_, text):
    with pytest.raises(ClientError, match=text):
        SyntheticEvent(**given_)


def test_event_is_refused_when_its_folder_is_a_file(tmp_path):
    path = tmp_path / "taken"
    path.write_text("")
    with pytest.raises(ClientError, match="cannot write the event"):
        write(SyntheticEvent(), path)
