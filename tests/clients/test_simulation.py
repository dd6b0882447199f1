import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import jv

from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.simulation.emitters import (
    EMITTERS,
    FFT_SIZE,
    PREFIX,
    ROLL_OFF,
    SUBCARRIERS,
    Cw,
    Nbfm,
    Ofdm,
    Qpsk,
    frequency_modulated,
)
from rfserve.clients.simulation.levels import levels
from rfserve.clients.simulation.placement import Station
from rfserve.clients.simulation.propagation import SPEED_OF_LIGHT_M_S, PathLoss
from rfserve.clients.simulation.receiver import FrontEnd
from rfserve.clients.simulation.scene import Scene
from rfserve.clients.simulation.simulator import simulate
from rfserve.export.networks.iq_features import IqFeatures

ALL = [kind() for kind in EMITTERS.values()]
SILENT = {"eirp_dbm": -200.0}
# Paths of 60 µs, oscillators that agree, and nothing but the emission.
CLEAN = Scene(
    emitter=Qpsk(bandwidth_hz=100e3),
    eirp_dbm=80.0,
    radius_m=20_000.0,
    path=PathLoss(exponent=2.0, shadowing_db=0.0),
    front_end=FrontEnd(oscillator_ppm=0.0),
)


def power_dbm(iq, full_scale_dbm):
    return 10 * np.log10(np.mean(np.abs(iq) ** 2, -1)) + full_scale_dbm


def frequencies(scene):
    return np.fft.fftfreq(scene.samples, 1 / scene.sample_rate_hz)


def spectrum_of(emitter, samples=16384, sample_rate_hz=250e3, seed=0):
    return emitter.spectrum(samples, sample_rate_hz, np.random.default_rng(seed))


def share_within(spectrum, sample_rate_hz, width_hz):
    power = np.abs(spectrum) ** 2
    return power[np.abs(np.fft.fftfreq(power.size, 1 / sample_rate_hz)) <= width_hz / 2].sum() / power.sum()


@pytest.mark.parametrize("rate_hz", [12e3, 250e3, 2.4e6])
def test_noise_of_the_samples_is_ktbf_and_white(rate_hz):
    scene = Scene(emitter=Cw(), sample_rate_hz=rate_hz, front_end=FrontEnd(noise_figure_db=9.0), **SILENT)
    received = simulate(scene)
    expected = -174 + 10 * math.log10(rate_hz) + 9
    # 16,384 samples give the power to 0.034 dB.
    np.testing.assert_allclose(power_dbm(received.iq, received.full_scale_dbm), expected, atol=0.15)
    density = np.abs(np.fft.fft(received.iq)).reshape(4, 16, -1) ** 2
    np.testing.assert_allclose(density.mean((0, 2)) / density.mean(), 1, atol=0.08)
    pairs = np.corrcoef(np.concatenate([received.iq.real, received.iq.imag]))[~np.eye(8, dtype=bool)]
    assert np.abs(pairs).max() < 0.04


@pytest.mark.parametrize("emitter", ALL, ids=lambda e: e.kind)
def test_snr_of_the_samples_is_that_of_the_truth(emitter):
    scene = Scene(emitter=emitter, receivers=10, eirp_dbm=10.0)
    received = simulate(scene)
    away = np.abs(frequencies(scene)) > 0.7 * emitter.bandwidth_hz + 8e3
    columns = (received.snr_db, received.rss_dbm, received.full_scale_dbm, received.offset_hz)
    for iq, snr_db, rss_dbm, full_scale_dbm, offset_hz in zip(received.iq, *columns, strict=True):
        # Without its offset the emission repeats with the recording: nothing leaks.
        tuned = iq * np.exp(-2j * np.pi * offset_hz * np.arange(iq.size) / scene.sample_rate_hz)
        power = np.abs(np.fft.fft(tuned)) ** 2 / scene.samples**2
        noise = power[away].mean() * scene.samples
        assert 10 * np.log10(power.sum() / noise - 1) == pytest.approx(snr_db, abs=0.25)
        assert 10 * np.log10(power.sum() - noise) + full_scale_dbm == pytest.approx(rss_dbm, abs=0.1)


@pytest.mark.parametrize("emitter", [Cw(), Nbfm(), Ofdm(bandwidth_hz=50e3), Qpsk()], ids=lambda e: e.kind)
def test_front_end_of_the_networks_measures_the_truth(emitter):
    scene = Scene(emitter=emitter, receivers=10, eirp_dbm=10.0, emitter_offset_hz=3e3)
    received = simulate(scene)
    raw = torch.from_numpy(np.stack([received.iq.real, received.iq.imag], 1))[None]
    rate = torch.full((1, 10), scene.sample_rate_hz)
    full_scale = torch.from_numpy(received.full_scale_dbm)[None].float()
    places = torch.from_numpy(received.positions)[None].float()
    _, features = IqFeatures()(raw, rate, full_scale, places, torch.ones(1, 10, dtype=torch.bool))
    snr_db, density, offset_hz = features[0, :, :3].numpy().T
    np.testing.assert_allclose(snr_db, received.snr_db, atol=0.5)
    np.testing.assert_allclose(density, -174 + 6, atol=0.5)
    # Without a carrier it is the middle of a random spectrum.
    np.testing.assert_allclose(offset_hz, received.offset_hz, atol=0.5 if emitter == Cw() else 0.02 * 25e3)


def test_offset_of_a_carrier_is_that_of_the_oscillator():
    scene = Scene(emitter=Cw(), receivers=10, emitter_offset_hz=-40e3, front_end=FrontEnd(oscillator_ppm=5.0))
    received = simulate(scene)
    for iq, offset_hz in zip(received.iq, received.offset_hz, strict=True):
        # Of the pairs half a recording apart, whose phase is known to turns after a coarse look.
        turned = iq * np.exp(-2j * np.pi * offset_hz * np.arange(iq.size) / scene.sample_rate_hz)
        assert np.argmax(np.abs(np.fft.fft(turned))) == 0
        half = iq.size // 2
        phase = np.angle(np.vdot(turned[:half], turned[half:]))
        assert phase / (2 * np.pi * half) * scene.sample_rate_hz == pytest.approx(0, abs=0.1)
    assert np.ptp(received.offset_hz) > 1e3


@pytest.mark.parametrize("clock_error_s", [0.0, 2e-5])
def test_delays_are_those_of_light_and_clocks(clock_error_s):
    scene = replace(CLEAN, receivers=6, front_end=replace(CLEAN.front_end, clock_error_s=clock_error_s))
    received = simulate(scene)
    late_s = received.distance_m / SPEED_OF_LIGHT_M_S + received.clock_error_s
    frequency = frequencies(scene)
    order = np.argsort(frequency)
    inside = order[np.abs(frequency[order]) < 25e3]
    spectra = np.fft.fft(received.iq)[:, inside]
    for spectrum, expected_s in zip(spectra[1:], late_s[1:] - late_s[0], strict=True):
        phase = np.unwrap(np.angle(spectra[0] * np.conj(spectrum)))
        slope = np.polyfit(frequency[inside], phase, 1)[0]
        # A thousandth of a sample.
        assert slope / (2 * np.pi) == pytest.approx(expected_s, abs=1e-3 / scene.sample_rate_hz)
    assert np.ptp(late_s) > 1.5e-5


def test_fm_of_a_tone_has_the_lines_of_bessel():
    samples, turns, index = 4096, 32, 2.4
    tone = np.cos(2 * np.pi * turns * np.arange(samples) / samples)
    lines = np.abs(np.fft.fft(frequency_modulated(index * turns * tone, 1.0))) / samples
    np.testing.assert_allclose(lines[: 8 * turns : turns], np.abs(jv(range(8), index)), atol=1e-12)
    assert np.delete(lines, range(0, samples, turns)).max() < 1e-12


@pytest.mark.parametrize("index", [0.833, 2.0, 5.0, 20.0])
def test_carson_has_98_percent_of_fm_by_a_tone(index):
    samples, turns = 1 << 15, 64
    tone = np.cos(2 * np.pi * turns * np.arange(samples) / samples)
    spectrum = np.fft.fft(frequency_modulated(index * turns * tone, 1.0))
    emission = Nbfm(audio_hz=3000, deviation_hz=index * 3000)
    carson = emission.bandwidth_hz / 3000 * turns
    assert share_within(spectrum, samples, carson + 1) > 0.98
    assert share_within(spectrum, samples, 0.8 * 2 * index * turns) < 0.98


@pytest.mark.parametrize("deviation_hz", [1_000.0, 2_500.0, 5_000.0, 25_000.0])
@pytest.mark.parametrize("seed", range(3))
def test_nbfm_occupies_what_carson_says_at_most(deviation_hz, seed):
    emitter = Nbfm(deviation_hz=deviation_hz)
    spectrum = spectrum_of(emitter, seed=seed)
    assert share_within(spectrum, 250e3, emitter.bandwidth_hz) > 0.99
    assert share_within(spectrum, 250e3, 0.4 * emitter.bandwidth_hz) < 0.99


def test_nbfm_reaches_its_deviation_with_a_constant_envelope():
    emission = np.fft.ifft(spectrum_of(Nbfm()))
    assert np.abs(emission).std() < 0.01
    swing_hz = np.diff(np.unwrap(np.angle(emission))) / (2 * np.pi) * 250e3
    assert np.abs(swing_hz).max() == pytest.approx(2_500, rel=0.02)
    # A limiter leaves more than the quarter that unlimited noise of this length would have.
    assert 0.4 < swing_hz.std() / 2_500 < 0.8
    audio = np.abs(np.fft.rfft(swing_hz - swing_hz.mean())) ** 2
    heard = np.fft.rfftfreq(swing_hz.size, 1 / 250e3)
    assert audio[(heard > 250) & (heard < 3_050)].sum() > 0.999 * audio.sum()


def test_nbfm_beyond_the_sampled_band_is_cut_off_there():
    emitter = Nbfm(deviation_hz=10e3)
    wide, narrow = (spectrum_of(emitter, n, 2.0 * n) for n in (65536, 8192))
    assert share_within(wide, 131072, 16384) < 0.98
    kept = np.r_[:4000, -4000:0]
    expected, found = (x[kept] / np.linalg.norm(x[kept]) for x in (wide, narrow))
    # Folded into the band, what lies beyond would be a sixth of the amplitude.
    assert np.linalg.norm(found - expected) < 0.05


@pytest.mark.parametrize("sample_rate_hz", [120e3, 250e3, 2e6])
def test_ofdm_is_flat_over_its_bandwidth_and_nothing_beyond(sample_rate_hz):
    emitter = Ofdm(bandwidth_hz=100e3)
    samples = int(0.1 * sample_rate_hz)
    spectrum = spectrum_of(emitter, samples, sample_rate_hz)
    power = np.abs(spectrum) ** 2
    frequency = np.fft.fftfreq(samples, 1 / sample_rate_hz)
    edge = 0.9 * emitter.bandwidth_hz / 2
    parts = [power[(frequency > a) & (frequency < a + edge / 5)].mean() for a in np.linspace(-edge, 0.8 * edge, 10)]
    # The middle subcarrier is empty.
    assert max(parts) / min(parts) < 10 ** (1.2 / 10)
    assert share_within(spectrum, sample_rate_hz, emitter.bandwidth_hz * 1.02) > 0.99
    assert share_within(spectrum, sample_rate_hz, emitter.bandwidth_hz * 0.97) < 0.99
    assert np.mean(np.abs(np.fft.ifft(spectrum)) ** 2) == pytest.approx(1)


def test_ofdm_has_its_prefix_and_qpsk_on_its_subcarriers():
    emitter = Ofdm(bandwidth_hz=100e3)
    symbol = FFT_SIZE + PREFIX
    symbols = 100
    seconds = symbols * symbol / (100e3 / (SUBCARRIERS + 1) * FFT_SIZE)
    sent = np.fft.ifft(spectrum_of(emitter, symbols * symbol, symbols * symbol / seconds))
    rows = sent.reshape(symbols, symbol)
    # The bin at half of the sampled band is the only one that is left out.
    np.testing.assert_allclose(rows[:, :PREFIX], rows[:, FFT_SIZE:], atol=0.02)
    carriers = np.fft.fft(rows[:, PREFIX:])
    used = carriers[:, np.r_[1:27, -26:0]]
    turned = used / np.abs(used).mean()
    np.testing.assert_allclose(np.abs(turned), 1, atol=0.05)
    np.testing.assert_allclose(turned**4, 1, atol=0.2)
    assert np.abs(carriers[:, np.r_[0, 28:36]]).max() < 0.05 * np.abs(used).mean()


def test_qpsk_keeps_to_its_bandwidth():
    emitter = Qpsk(bandwidth_hz=100e3)
    assert share_within(spectrum_of(emitter), 250e3, 100e3) > 1 - 1e-6
    assert share_within(spectrum_of(emitter), 250e3, 100e3 / (1 + ROLL_OFF)) < 0.99


@pytest.mark.parametrize("emitter", ALL, ids=lambda e: e.kind)
@pytest.mark.parametrize("samples", [4096, 5003])
def test_emission_has_power_1_at_any_length(emitter, samples):
    spectrum = spectrum_of(emitter, samples)
    assert spectrum.shape == (samples,)
    assert np.mean(np.abs(np.fft.ifft(spectrum)) ** 2) == pytest.approx(1)


def test_samples_stand_on_the_steps_of_the_converter():
    received = simulate(replace(CLEAN, front_end=FrontEnd(bits=8)))
    parts = received.iq.view(np.float32) * 2**7
    np.testing.assert_array_equal(parts, np.round(parts))
    assert np.unique(parts).size > 50


@pytest.mark.parametrize("bits", [6, 8, 12])
def test_rounding_costs_what_the_truth_says(bits):
    coarse, fine = (simulate(replace(CLEAN, front_end=FrontEnd(bits=b))) for b in (bits, 16))
    lost = power_dbm(coarse.iq - fine.iq, coarse.full_scale_dbm)
    np.testing.assert_allclose(coarse.noise_dbm, lost, atol=0.3)
    assert (coarse.noise_dbm > coarse.thermal_dbm + 10).all()


@pytest.mark.parametrize("emitter", ALL, ids=lambda e: e.kind)
def test_nothing_clips_when_gain_is_set(emitter):
    for seed in range(20):
        received = simulate(Scene(emitter=emitter, seed=seed, samples=4096))
        parts = np.abs(received.iq.view(np.float32)).max(-1)
        assert (parts < 1).all()
        # And little of the converter is wasted.
        assert (parts > 0.1).all()


def test_full_scale_that_is_too_low_is_refused():
    with pytest.raises(ClientError, match=r"R1: its samples pass its full scale, -90 dBm, by .* give a full scale of"):
        simulate(Scene(front_end=FrontEnd(full_scale_dbm=-90.0)))
    fits = simulate(Scene(front_end=FrontEnd(full_scale_dbm=-20.0)))
    np.testing.assert_allclose(power_dbm(fits.iq, -20.0), fits.rss_dbm, atol=0.2)


def test_scene_is_the_same_when_the_seed_is():
    one, again, other = (simulate(Scene(seed=s)) for s in (4, 4, 5))
    assert one.iq.tobytes() == again.iq.tobytes()
    for name in ("positions", "rss_dbm", "offset_hz", "noise_dbm"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(one, name), getattr(levels(Scene(seed=4)), name))
    assert (one.iq != other.iq).mean() > 0.9
    assert (one.rss_dbm != other.rss_dbm).all()


def test_receivers_share_neither_phase_nor_noise():
    place = Position(latitude_deg=45.0, longitude_deg=7.0)
    twins = tuple(Station(name=n, position=place) for n in ("a", "b"))
    scene = replace(CLEAN, receivers=twins, emitter_at=Position(latitude_deg=45.01, longitude_deg=7.0))
    one, two = simulate(scene).iq
    assert abs(np.angle(np.vdot(one, two))) > 0.01
    quiet = simulate(replace(scene, **SILENT)).iq
    assert abs(np.corrcoef(quiet)[0, 1]) < 0.04


def test_observations_are_what_a_client_locates():
    place = Position(latitude_deg=45.0, longitude_deg=7.0, altitude_m=300.0)
    received = simulate(Scene(receivers=(Station(name="roof", position=place, receiver_id=4),)))
    (only,) = received.observations
    assert (only.name, only.receiver_id, only.altitude_m) == ("roof", 4, 300.0)
    assert only.full_scale_dbm == received.full_scale_dbm[0]
    np.testing.assert_array_equal(only.iq, received.iq[0])
