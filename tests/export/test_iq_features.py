"""Window and features against SciPy and against physics."""

import numpy as np
import pytest
from scipy import signal

from rfserve.export import onnx_file
from rfserve.export.networks.iq_features import IqFeatures
from rfserve.export.spec import GRAPHS

SPEC = GRAPHS["iq_features"]
NETWORK = IqFeatures().eval()


def request(*receivers: np.ndarray, rate_hz: float = 12e3, full_scale_dbm: float = 0.0) -> dict[str, np.ndarray]:
    """One row of complex recordings of one length."""
    iq = np.stack([[x.real, x.imag] for x in receivers])[None].astype(np.float32)
    count = len(receivers)
    return {
        "raw_iq": iq,
        "sample_rate_hz": np.full((1, count), rate_hz, np.float32),
        "full_scale_dbm": np.full((1, count), full_scale_dbm, np.float32),
        "receiver_positions": np.tile(np.float32([50.0, 9.0, 100.0]), (1, count, 1)),
        "mask": np.ones((1, count), bool),
    }


def features(*receivers: np.ndarray, **options: float) -> np.ndarray:
    """SNR, PSD and offset of each receiver, (receivers, 3)."""
    return onnx_file.run_eager(NETWORK, SPEC, request(*receivers, **options))["features"][0, :, :3]


def noise(samples: int, dbfs: float, seed: int = 0) -> np.ndarray:
    """White complex Gaussian noise of a total power."""
    rng = np.random.default_rng(seed)
    pair = rng.normal(0, np.sqrt(10 ** (dbfs / 10) / 2), (2, samples))
    return pair[0] + 1j * pair[1]


def tone(samples: int, rate_hz: float, offset_hz: float, dbfs: float) -> np.ndarray:
    return 10 ** (dbfs / 20) * np.exp(2j * np.pi * (offset_hz * np.arange(samples) / rate_hz + 0.123))


# --- the reference: FP64, SciPy's transforms, one receiver at a time -------------------------------------------------


def db(power):
    return 10 * np.log10(power)


def reference_noise(density: np.ndarray) -> tuple[float, np.ndarray]:
    """Noise density in units of 1 / sample rate and the mask of passband bins, of a (bins, segments) spectrogram."""
    level = db(density).mean(1)
    passband = level >= np.sort(level)[-21] - 50
    ring = np.roll(np.arange(512), np.argmax(density.mean(1)))
    used = passband & (np.minimum(ring, 512 - ring) > 5)
    loudness = db(density)[used].mean(0)
    weight = np.interp(loudness - np.quantile(loudness, 0.05), [4, 6], [1, 0])
    weight /= weight.sum()
    floor = density @ weight
    held = floor >= np.median(floor[used]) / 5
    return np.median(floor[used & held]) / (1 - (weight**2).sum() / 9) ** 3, passband & held


def reference_carrier(samples: np.ndarray, peak: int) -> tuple[float, float]:
    """Cycles a sample and coherence of the strongest line near a bin, from the bin's own samples over time."""
    window = signal.get_window("blackmanharris", 512)
    starts = np.arange(0, samples.size - 511, 256)
    track = np.array([np.fft.fft(samples[s : s + 512] * window)[peak] for s in starts])
    hann = np.sin(np.pi * (np.arange(track.size) + 0.5) / track.size) ** 2
    power = np.abs(np.fft.fft(track * hann, 1024)) ** 2
    top = int(np.argmax(power))
    a, b, c = np.log(power[np.arange(top - 1, top + 2) % 1024])
    cycles = (top + 0.5 * (a - c) / (a - 2 * b + c)) / 1024
    near = np.fft.fftfreq(512)[peak]
    candidates = (cycles + np.arange(-200, 200)) / 256
    found = candidates[np.argmin(np.abs(candidates - near))]
    return (found + 0.5) % 1 - 0.5, power[top] / (hann.sum() * (hann * np.abs(track) ** 2).sum())


def reference(samples: np.ndarray, rate_hz: float) -> np.ndarray:
    """SNR dB, noise PSD dBFS/Hz, offset Hz, written from the docstrings with scipy.signal."""
    used = samples[: samples.size // 256 * 256]
    _, _, density = signal.spectrogram(
        used, 1.0, "blackmanharris", 512, 256, detrend=False, return_onesided=False, mode="psd"
    )
    floor, passband = reference_noise(density)
    noise_power = floor * passband.sum() / 512
    wanted = max(np.mean(np.abs(samples) ** 2) - noise_power, 0)
    mean, cycles = density.mean(1), np.fft.fftfreq(512)
    peak = int(np.argmax(mean))
    ring = np.roll(np.arange(512), peak)
    held = (mean - floor)[np.minimum(ring, 512 - ring) <= 5].sum() / 512
    offset, coherence = reference_carrier(used, peak)
    if mean[peak] < 10 * floor or held < wanted / 2 or coherence < 0.5:
        excess = np.where(passband, np.maximum(mean - 4 * floor, 0), 0)
        offset = (excess * cycles).sum() / excess.sum() if excess.sum() else 0.0
    snr = np.clip(db(max(wanted / noise_power, 1e-30)), -20, 100)
    return np.array([snr, max(db(floor / rate_hz), -200), offset * rate_hz])


def channel_filtered(samples: int, seed: int) -> np.ndarray:
    """Noise behind a channel filter of a twelfth of the sample rate, 70 dB deep, and a carrier in it."""
    taps = signal.firwin(257, 1 / 12, window=("kaiser", 7))
    shaped = signal.lfilter(taps, 1, noise(samples + 256, -40, seed))[256:]
    return shaped + tone(samples, 12e3, 3.0, -15)


def bursts(samples: int, seed: int) -> np.ndarray:
    """Wideband pulses of a twentieth of the time, 25 dB above the noise, centred a tenth of the rate up."""
    envelope = (np.arange(samples) % 1000 < 50) * 1.0
    shape = signal.lfilter(signal.firwin(65, 0.1), 1, noise(samples, -10, seed + 1))
    return noise(samples, -45, seed) + envelope * shape * tone(samples, 1.0, 0.1, 0)


@pytest.mark.parametrize("samples", [1024, 1500, 4097, 16384, 30011])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: noise(n, -50, 1) + tone(n, 12e3, 1234.5, -30),
        lambda n: noise(n, -20, 2),
        lambda n: channel_filtered(n, 3),
        lambda n: bursts(n, 4),
        lambda n: noise(n, -60, 5) + signal.lfilter(signal.firwin(65, 0.2), 1, noise(n, -20, 6)),
    ],
    ids=["tone", "noise", "channel filter", "bursts", "wideband"],
)
def test_features_equal_the_scipy_reference(make, samples):
    made = make(samples).astype(np.complex64).astype(complex)
    np.testing.assert_allclose(features(made)[0], reference(made, 12e3), rtol=1e-6, atol=1e-3)


# --- physics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [4096, 16384, 65536])
@pytest.mark.parametrize(
    ("rate_hz", "offset_hz", "snr_db"),
    [
        (12e3, 0.0, 30),
        (12e3, -1234.5, 10),
        (48e3, 11.7, 50),
        (250e3, -61234.5, 0),
        (2.4e6, 1.1e6, 20),
        (2.4e6, -1.19999e6, 60),
    ],
)
def test_tone_has_its_snr_psd_and_offset(samples, rate_hz, offset_hz, snr_db):
    recording = noise(samples, -70, samples) + tone(samples, rate_hz, offset_hz, snr_db - 70)
    snr, psd, offset = features(recording, rate_hz=rate_hz)[0]
    assert snr == pytest.approx(snr_db, abs=0.5)
    assert psd == pytest.approx(-70 - db(rate_hz), abs=0.4)
    # Five sigma: Hann weighting costs twice the variance of the Cramér-Rao bound (Rife and Boorstyn, IEEE Trans. Inf.
    # Theory 20 (1974)). The parabola is biased by up to 2e-4 of the resolution, and FP32 rounds the answer.
    bound = rate_hz / (2 * np.pi) * np.sqrt(2 * 6 / (10 ** (snr_db / 10) * samples**3))
    assert offset == pytest.approx(offset_hz, abs=5 * bound + 2e-7 * abs(offset_hz) + 2e-4 * rate_hz / samples)


def test_psd_is_in_dbm_per_hertz_when_the_receiver_is_calibrated():
    recording = noise(16384, -50)
    relative, absolute = (features(recording, rate_hz=1e6, full_scale_dbm=s)[0, 1] for s in (0, -23.5))
    assert relative == pytest.approx(-110, abs=0.3)
    assert absolute == pytest.approx(relative - 23.5, abs=1e-4)


def test_noise_has_no_snr_and_no_offset():
    for samples in (1024, 4096, 16384):
        snr, _, offset = features(noise(samples, -40, samples))[0]
        assert snr <= -8
        assert offset == 0


def test_noise_is_measured_between_pulses_when_the_emission_is_keyed():
    samples = np.arange(16384)
    recording = noise(16384, -60) + tone(16384, 48e3, 500, -20) * (samples % 4096 < 2500)
    snr, psd, _ = features(recording, rate_hz=48e3)[0]
    assert psd == pytest.approx(-60 - db(48e3), abs=0.7)
    assert snr == pytest.approx(40 + db(2500 / 4096), abs=0.7)


def test_noise_is_that_of_the_passband_when_a_channel_filter_leaves_an_empty_band():
    snr, psd, offset = features(channel_filtered(16384, 7))[0]
    assert psd == pytest.approx(-40 - db(12e3), abs=1)
    assert snr == pytest.approx(-15 + 40 + db(12), abs=1.5)
    assert offset == pytest.approx(3.0, abs=0.01)


def test_offset_is_the_centroid_when_the_emission_has_no_carrier():
    shape = signal.lfilter(signal.firwin(129, 0.1), 1, noise(16384, 0, 3))
    recording = noise(16384, -50) + shape * tone(16384, 1e6, 150e3, 0)
    assert features(recording, rate_hz=1e6)[0, 2] == pytest.approx(150e3, abs=3e3)


def test_window_is_the_strongest_of_all_receivers_together():
    quiet = noise(8192, -40, 1)
    early, late = noise(8192, -60, 2), noise(8192, -20, 3)
    early[1000:2100] *= 10
    late[5000:6100] *= 3
    alone = [onnx_file.run_eager(NETWORK, SPEC, request(x))["iq_data"][0, 0, 0] for x in (early, late)]
    np.testing.assert_array_equal(alone[0], early.real.astype(np.float32)[1024:2048])
    np.testing.assert_array_equal(alone[1], late.real.astype(np.float32)[5120:6144])
    # Relative to each receiver's own mean the early burst is the greater, though it is 40 dB weaker.
    both = onnx_file.run_eager(NETWORK, SPEC, request(quiet, early, late))["iq_data"][0]
    for got, sent in zip(both, (quiet, early, late), strict=True):
        np.testing.assert_array_equal(got, np.stack([sent.real, sent.imag])[:, 1024:2048].astype(np.float32))
