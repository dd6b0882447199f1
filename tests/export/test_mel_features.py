"""The mel spectrogram: against SciPy and published filter edges, against garbage, and through ONNX Runtime."""

import numpy as np
import pytest
import torch
from scipy import signal

from rfserve.export import onnx_file, parity
from rfserve.export.networks.mel_features import MelFeatures
from rfserve.export.networks.spectrum import slaney_mel_filters
from rfserve.export.spec import GRAPHS, example

SPEC = GRAPHS["mel_features"]
NETWORK = MelFeatures().eval()
SIZES = [4096, 5000, 16384, 32768, 65535, 65536]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    file = tmp_path_factory.mktemp("mel_features") / "model.onnx"
    onnx_file.write(NETWORK, SPEC, file)
    onnx_file.check(file, SPEC)
    return onnx_file.open_session(file, threads=2)


def mel(iq: np.ndarray) -> np.ndarray:
    return onnx_file.run_eager(NETWORK, SPEC, {"raw_iq": iq.astype(np.float32)})["mel_spectrogram"]


def reference_filters() -> np.ndarray:
    """Slaney's filterbank from its published constants, as interpolated triangles: (128, 513)."""
    top = 15 + 27 * np.log(11025 / 1000) / np.log(6.4)
    marks = np.linspace(0, top, 130)
    edges = np.array([m * 200 / 3 if m <= 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in marks])
    bins = np.fft.rfftfreq(1024, 1 / 22050)
    rows = [np.interp(bins, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(128)]
    return np.array(rows) * (2 / (edges[2:] - edges[:-2]))[:, None]


def reference(iq: np.ndarray) -> np.ndarray:
    """(2, S) to (3, 128, 32), written from the docstring."""
    window = signal.get_window("hann", 1024)
    out = []
    for channel in (iq[0], iq[1], np.hypot(iq[0], iq[1])):
        starts = [int(np.floor(i * (channel.size - 1024) / 31 + 0.5)) for i in range(32)]
        frames = np.array([channel[s : s + 1024] * window for s in starts])
        power = reference_filters() @ (np.abs(np.fft.rfft(frames)) ** 2).T
        out.append(np.maximum(10 * np.log10(power / power.max()), -80))
    return np.array(out)


@pytest.mark.parametrize("samples", SIZES)
def test_spectrogram_equals_the_scipy_reference(samples):
    rng = np.random.default_rng(samples)
    chirp = signal.chirp(np.arange(samples), 0.001, samples, 0.3)
    iq = np.stack([chirp, 0.1 * chirp**2]) + rng.normal(0, 1e-5, (2, samples))
    got = mel(iq[None])[0]
    np.testing.assert_allclose(got, reference(iq.astype(np.float32).astype(float)), atol=1e-3)
    assert (got.min(), got.max()) == (-80, 0)


def test_filters_are_the_published_ones():
    filters = slaney_mel_filters(filters=128, points=1024, rate_hz=22050.0).numpy()
    np.testing.assert_allclose(filters, reference_filters(), atol=1e-12)
    assert (filters.sum(1) > 0).all()
    # Slaney's scale: 3 mel are 200 Hz, and 27 steps from 1 kHz are 6.4 kHz.
    centre = 22050 / 1024 * filters.argmax(1)
    step = (15 + 27 * np.log(11.025) / np.log(6.4)) / 129
    assert centre[0] == pytest.approx(step * 200 / 3, abs=22050 / 1024)
    assert np.interp(6400, centre, np.arange(1, 129) * step) == pytest.approx(42, abs=0.2)


@pytest.mark.parametrize("cycles", [0.02, 0.1, 0.4])
def test_tone_stands_in_the_filter_of_its_frequency(cycles):
    phase = 2 * np.pi * cycles * np.arange(20000)
    image = mel(np.stack([np.cos(phase), np.sin(phase)])[None])[0]
    wanted = int(np.argmax(reference_filters()[:, round(cycles * 1024)]))
    for channel in image[:2]:
        assert (np.abs(channel.argmax(0) - wanted) <= 1).all()
    # A constant magnitude has nothing but its mean.
    assert (image[2].argmax(0) == 0).all()


def test_burst_stands_in_its_frames():
    iq = np.full((1, 2, 31 * 512 + 1024), 1e-6)
    iq[:, :, 8192:8700] = np.random.default_rng(0).normal(size=508)
    loud = np.flatnonzero(mel(iq)[0, 0].max(0) > -40)
    assert loud.size
    assert set(loud) <= {15, 16}


def test_level_does_not_matter(session):
    iq = example(SPEC, seed=1)["raw_iq"]
    for gain in (1e-12, 1e12):
        np.testing.assert_allclose(mel(iq * np.float32(gain)), mel(iq), atol=1e-3)


def test_silent_channel_is_the_floor(session):
    iq = example(SPEC, batch=2, sizes={"raw_samples": 5001})["raw_iq"]
    iq[0, 1] = 0
    iq[1] = 0
    for image in (mel(iq), onnx_file.run_session(session, {"raw_iq": iq})["mel_spectrogram"]):
        assert (image[0, 1] == -80).all()
        assert (image[1] == -80).all()
        assert image[0, 0].max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_number_not_finite_gives_nan_for_that_row_alone(session, value):
    iq = example(SPEC, batch=3, sizes={"raw_samples": 4500})["raw_iq"]
    clean = mel(iq)
    iq[1, 1, 4499] = value
    for image in (mel(iq), onnx_file.run_session(session, {"raw_iq": iq})["mel_spectrogram"]):
        assert np.isnan(image[1]).all()
        np.testing.assert_allclose(image[[0, 2]], clean[[0, 2]], atol=1e-4)


@pytest.mark.parametrize("amplitude", [1e-45, 3e38])
def test_extreme_amplitudes_stay_finite(session, amplitude):
    iq = np.sign(example(SPEC)["raw_iq"]) * np.float32(amplitude)
    for image in (mel(iq), onnx_file.run_session(session, {"raw_iq": iq})["mel_spectrogram"]):
        assert np.isfinite(image).all()
        assert image.max() == 0


def test_row_alone_equals_row_in_a_batch(session):
    iq = example(SPEC, batch=4, sizes={"raw_samples": 7777})["raw_iq"]
    whole = onnx_file.run_session(session, {"raw_iq": iq})["mel_spectrogram"]
    for row in range(4):
        alone = onnx_file.run_session(session, {"raw_iq": iq[row : row + 1]})["mel_spectrogram"]
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-5)


def test_onnx_equals_eager_over_the_gates_cases(session):
    assert not parity.measure(NETWORK, session, SPEC).failures


@pytest.mark.parametrize(("batch", "samples"), [(1, 4096), (1, 65536), (32, 4097)])
def test_onnx_equals_eager_at_the_bounds(session, batch, samples):
    inputs = example(SPEC, batch=batch, sizes={"raw_samples": samples}, seed=2)
    got = onnx_file.run_session(session, inputs)["mel_spectrogram"]
    assert got.shape == (batch, 3, 128, 32)
    np.testing.assert_allclose(got, mel(inputs["raw_iq"]), atol=SPEC.tolerance)


def test_state_has_nothing_to_load():
    assert not NETWORK.state_dict()
    assert not list(NETWORK.parameters())
    assert torch.is_tensor(NETWORK.filters)
