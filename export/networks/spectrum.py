"""Discrete Fourier transforms as matrix products, and the window and filters that go with them; FP64 throughout.

FP64 for two reasons: GPU runtimes multiply FP32 matrices in TF32 unless told otherwise, whose 10-bit mantissa puts
spurs 60 dB below a carrier; and choices by comparison (the strongest bin, the strongest window) must not depend on
which runtime rounds how.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Harris, "On the use of windows for harmonic analysis with the discrete Fourier transform", Proc. IEEE 66 (1978),
# table 1: minimum 4-term window, highest side lobe -92 dB.
BLACKMAN_HARRIS = (0.35875, 0.48829, 0.14128, 0.01168)
HANN = (0.5, 0.5)


def cosine_window(samples: int, terms: tuple[float, ...]) -> Tensor:
    """A periodic cosine-sum window, (samples) FP64."""
    phase = 2 * np.pi * np.arange(samples) / samples
    return torch.from_numpy(sum((-1) ** i * a * np.cos(i * phase) for i, a in enumerate(terms)))


class Dft(nn.Module):
    """The DFT of rows · columns points in two stages, because `torch.fft` has no ONNX form in the legacy exporter.

    n = columns·a + b, k = c + rows·d (Cooley and Tukey, Math. Comp. 19 (1965)): DFTs over a, twiddle factors, DFTs over
    b. The multiplications fall from n² to n·(rows + columns).
    """

    first: Tensor
    second: Tensor
    cosine: Tensor
    sine: Tensor

    def __init__(self, *, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns, self.points = rows, columns, rows * columns
        turn = np.outer(np.arange(rows), np.arange(columns)) / self.points
        self.register_buffer("first", torch.from_numpy(_as_real(_dft(rows))), persistent=False)
        self.register_buffer("second", torch.from_numpy(_as_real(_dft(columns)).T.copy()), persistent=False)
        self.register_buffer("cosine", torch.from_numpy(np.cos(2 * np.pi * turn)), persistent=False)
        self.register_buffer("sine", torch.from_numpy(np.sin(-2 * np.pi * turn)), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Complex (n, 2, points) FP64, real part first, to the real and imaginary parts of bins 0 up, (n, points)."""
        stage = torch.matmul(self.first, x.reshape(-1, 2 * self.rows, self.columns))
        re, im = stage[:, : self.rows], stage[:, self.rows :]
        turned = torch.cat([re * self.cosine - im * self.sine, re * self.sine + im * self.cosine], -1)
        bins = torch.matmul(turned, self.second).transpose(1, 2)
        return (
            bins[:, : self.columns].reshape(-1, self.points),
            bins[:, self.columns :].reshape(-1, self.points),
        )


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


def _dft(points: int) -> NDArray[np.complex128]:
    n = np.arange(points)
    return np.asarray(np.exp(-2j * np.pi * np.outer(n, n) / points))


def _as_real(matrix: NDArray[np.complex128]) -> NDArray[np.float64]:
    """The complex matrix acting on stacked real and imaginary parts."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
