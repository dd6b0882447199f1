"""The transform of the front ends against NumPy's."""

import numpy as np
import pytest
import torch

from rfserve.export.networks.dft import Dft

RNG = np.random.default_rng(0)


def arranged(signals: np.ndarray, first: int) -> torch.Tensor:
    """(columns, parts, points) as the transform takes them."""
    columns, parts, points = signals.shape
    return torch.from_numpy(signals.reshape(columns, parts, first, points // first).transpose(3, 1, 2, 0).copy())


@pytest.mark.parametrize("radices", [(2, 3), (8, 8, 8), (16, 8, 8), (3, 4, 5, 2)])
@pytest.mark.parametrize("columns", [1, 7])
def test_transform_is_numpys(radices, columns):
    dft = Dft(*radices)
    signals = RNG.normal(size=(columns, 2, dft.points))
    found = dft(arranged(signals, radices[0]))
    assert found.shape == (dft.points // radices[-1], 2, radices[-1], columns)
    assert sorted(dft.bins.tolist()) == list(range(dft.points))
    expected = np.fft.fft(signals[:, 0] + 1j * signals[:, 1]).T[dft.bins.numpy()]
    re, im = found.transpose(0, 1).reshape(2, dft.points, columns).numpy()
    np.testing.assert_allclose(re + 1j * im, expected, atol=1e-12)


@pytest.mark.parametrize("radices", [(2, 3), (3, 2, 2), (16, 8, 8)])
def test_real_signal_gives_each_bin_or_its_conjugate(radices):
    dft = Dft(*radices, real=True)
    signals = RNG.normal(size=(5, 1, dft.points))
    re, im = dft(arranged(signals, radices[0])).transpose(0, 1).reshape(2, -1, 5).numpy()
    np.testing.assert_allclose(re + 1j * im, np.fft.fft(signals[:, 0]).T[dft.bins.numpy()], atol=1e-12)
    folded = np.minimum(dft.bins.numpy(), dft.points - dft.bins.numpy())
    assert set(folded) == set(range(dft.points // 2 + 1))
    assert len(dft.bins) == (radices[0] // 2 + 1) * dft.points // radices[0]


def test_window_multiplies_the_points():
    window = RNG.uniform(size=64)
    signals = RNG.normal(size=(3, 2, 64))
    found = Dft(8, 8, window=window)(arranged(signals, 8))
    torch.testing.assert_close(found, Dft(8, 8)(arranged(signals * window, 8)), rtol=0, atol=1e-12)
