"""Windows and filters for spectra, FP64."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Harris, "On the use of windows for harmonic analysis with the discrete Fourier transform", Proc. IEEE 66 (1978),
# table 1: minimum 4-term window, highest side lobe -92 dB.
BLACKMAN_HARRIS = (0.35875, 0.48829, 0.14128, 0.01168)
HANN = (0.5, 0.5)


def cosine_window(samples: int, terms: tuple[float, ...]) -> Tensor:
    """A periodic cosine-sum window, (samples) FP64."""
    phase = 2 * np.pi * np.arange(samples) / samples
    return torch.from_numpy(sum((-1) ** i * a * np.cos(i * phase) for i, a in enumerate(terms)))


def slaney_mel_filters(*, filters: int, points: int, rate_hz: float) -> Tensor:
    """Triangular mel filters over the bins 0 to points/2 of a real spectrum, (filters, points/2 + 1) FP64.

    Slaney's scale and equal-area normalisation (Auditory Toolbox, Interval Technical Report 1998-010; the same as
    `librosa.filters.mel(htk=False, norm="slaney")`): linear below 1 kHz, logarithmic above.
    """
    edges_hz = _hz(np.linspace(0.0, _mel(rate_hz / 2), filters + 2))
    bins_hz = np.arange(points // 2 + 1) * rate_hz / points
    low, middle, high = (edges_hz[i : i + filters, None] for i in range(3))
    triangle = np.minimum((bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle))
    return torch.from_numpy(np.maximum(triangle, 0) * 2 / (high - low))


MEL_BREAK_HZ = 1000.0
MEL_LINEAR_HZ = 200.0 / 3
MEL_LOG_STEP = np.log(6.4) / 27


def _mel(hz: float) -> float:
    if hz < MEL_BREAK_HZ:
        return hz / MEL_LINEAR_HZ
    return float(MEL_BREAK_HZ / MEL_LINEAR_HZ + np.log(hz / MEL_BREAK_HZ) / MEL_LOG_STEP)


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = mel - MEL_BREAK_HZ / MEL_LINEAR_HZ
    return np.where(above < 0, mel * MEL_LINEAR_HZ, MEL_BREAK_HZ * np.exp(MEL_LOG_STEP * above))
