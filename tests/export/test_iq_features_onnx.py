"""The front end of the receivers in eager PyTorch and in ONNX Runtime: garbage, bounds, every size."""

import numpy as np
import pytest

from rfserve.export import onnx_file, parity
from rfserve.export.networks.iq_features import IqFeatures
from rfserve.export.spec import GRAPHS, example

SPEC = GRAPHS["iq_features"]
NETWORK = IqFeatures().eval()
NAMES = [t.name for t in SPEC.inputs]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    file = tmp_path_factory.mktemp("iq_features") / "model.onnx"
    onnx_file.write(NETWORK, SPEC, file)
    onnx_file.check(file, SPEC)
    return onnx_file.open_session(file, threads=2)


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


def noise(samples: int, dbfs: float, seed: int = 0) -> np.ndarray:
    """White complex Gaussian noise of a total power."""
    rng = np.random.default_rng(seed)
    pair = rng.normal(0, np.sqrt(10 ** (dbfs / 10) / 2), (2, samples))
    return pair[0] + 1j * pair[1]


def tone(samples: int, rate_hz: float, offset_hz: float, dbfs: float) -> np.ndarray:
    return 10 ** (dbfs / 20) * np.exp(2j * np.pi * (offset_hz * np.arange(samples) / rate_hz + 0.123))


def runs(session, inputs):
    return [onnx_file.run_eager(NETWORK, SPEC, inputs), onnx_file.run_session(session, inputs)]


def test_window_is_the_first_when_all_are_equal(session):
    inputs = request(tone(7000, 1.0, 0.01234, -10))
    for answer in (onnx_file.run_eager(NETWORK, SPEC, inputs), onnx_file.run_session(session, inputs)):
        np.testing.assert_array_equal(answer["iq_data"], inputs["raw_iq"][..., :1024])


def test_silence_gives_the_documented_floors(session):
    for answer in runs(session, request(np.zeros(5000, complex), full_scale_dbm=-30)):
        np.testing.assert_allclose(answer["features"][0, 0], [-20, -230, 0, 50, 9, 100])
        assert not answer["iq_data"].any()


@pytest.mark.parametrize("amplitude", [1e-45, 1e-20, 3e38])
def test_extreme_amplitudes_stay_finite(session, amplitude):
    iq = np.sign(noise(2000, 0).real) * np.float32(amplitude)
    for answer in runs(session, request(iq + 1j * iq)):
        assert all(np.isfinite(a).all() for a in answer.values())


def test_padding_is_zero_and_without_effect_whatever_it_holds(session):
    inputs = example(SPEC, batch=3, sizes={"receivers": 4, "raw_samples": 3000})
    inputs["mask"][:] = [[True, False, True, False], [False, False, False, True], [False] * 4]
    clean = onnx_file.run_eager(NETWORK, SPEC, inputs)
    for garbage in (np.nan, np.inf, -3e38, 0.0):
        for name in NAMES[:-1]:
            inputs[name][~inputs["mask"]] = garbage
        for answer in runs(session, inputs):
            for name, array in answer.items():
                assert not array[~inputs["mask"]].any()
                np.testing.assert_allclose(array, clean[name], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_number_not_finite_gives_nan_for_that_receiver_alone(session, name, value):
    inputs = example(SPEC, batch=3, sizes={"receivers": 3, "raw_samples": 2100}, active=3)
    clean = onnx_file.run_eager(NETWORK, SPEC, inputs)
    inputs[name].reshape(3, 3, -1)[1, 2, -1] = value
    for answer in runs(session, inputs):
        assert all(np.isnan(a[1, 2]).all() for a in answer.values())
        np.testing.assert_allclose(answer["features"][1, :2], clean["features"][1, :2], rtol=1e-6, atol=1e-3)
        assert np.isfinite(answer["iq_data"][1, :2]).all()
        for row in (0, 2):
            for output, array in answer.items():
                np.testing.assert_allclose(array[row], clean[output][row], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0])
def test_sample_rate_not_above_zero_gives_nan(session, rate_hz):
    for answer in runs(session, request(noise(2000, -20), rate_hz=rate_hz)):
        assert all(np.isnan(a).all() for a in answer.values())


def test_row_alone_equals_row_in_a_batch(session):
    inputs = example(SPEC, batch=5, sizes={"raw_samples": 2345}, seed=3)
    whole = onnx_file.run_session(session, inputs)
    for row in range(5):
        alone = onnx_file.run_session(session, {k: v[row : row + 1] for k, v in inputs.items()})
        for name, array in alone.items():
            np.testing.assert_allclose(array[0], whole[name][row], rtol=1e-6, atol=1e-5)


def test_onnx_equals_eager_over_the_gates_cases(session):
    measured = parity.measure(NETWORK, session, SPEC)
    assert not measured.failures
    # Choices by comparison are made in FP64, so not one window differs.
    assert measured.worst["iq_data"] == 0


@pytest.mark.parametrize(
    ("batch", "receivers", "samples"), [(1, 1, 1024), (1, 10, 65536), (32, 1, 1025), (2, 3, 65535)]
)
def test_onnx_equals_eager_at_the_bounds(session, batch, receivers, samples):
    inputs = example(SPEC, batch=batch, sizes={"receivers": receivers, "raw_samples": samples}, seed=9)
    inputs["raw_iq"] += tone(samples, 1.0, 0.1234, -10).real.astype(np.float32)
    expected, got = runs(session, inputs)
    for name, array in got.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=SPEC.tolerance)
