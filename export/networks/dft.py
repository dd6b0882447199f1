"""The discrete Fourier transform as matrix products, for graphs; FP64.

FP64 for two reasons: GPU runtimes multiply FP32 matrices in TF32 unless told otherwise, whose 10-bit mantissa puts
spurs 60 dB below a carrier; and choices by comparison (the strongest bin, the strongest window) must not depend on
which runtime rounds how.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Dft(nn.Module):
    """The DFT of as many points as the product of two or more `radices`; `torch.fft` has no form in the exporter.

    Each radix r is a stage (Cooley and Tukey, Math. Comp. 19 (1965)): with N points left, n = (N/r)·a + b and
    k = c + r·k', it computes DFTs over a, and leaves those over b, of N/r points, for each c. A stage is one batch of
    matrix products. Twiddle factors and window stand in its matrices, one for each b, so that between two stages
    nothing happens to the data but its next order. Stages of 8 and 16 multiply least and still fill a matrix product.

    `bins` INT64, (groups · r_last), says which bin each result is: results come in the order of the digits c.
    """

    bins: Tensor

    def __init__(self, *radices: int, window: NDArray[np.float64] | None = None, real: bool = False) -> None:
        """`window`: a factor for each point.

        `real`: points without an imaginary part. Of two bins that are each other's conjugate one may be left out.
        """
        super().__init__()
        first = radices[0]
        self.radices, self.points = radices, math.prod(radices)
        self.digits = first // 2 + 1 if real else first
        factors = np.ones(self.points) if window is None else window
        opening = _stage(self.points, first)[:, : self.digits] * factors.reshape(first, -1).T[:, None, :]
        # All real inputs come before the imaginary ones; of what leaves the last stage, too.
        matrices = [_as_real(opening)[..., : 1 if real else 2].swapaxes(3, 4)]
        left = self.points // first
        for radix in radices[1:]:
            matrices.append(_as_real(_stage(left, radix)))
            left //= radix
        matrices[-1] = matrices[-1].swapaxes(1, 2)
        for index, parts in enumerate(matrices):
            flat = torch.from_numpy(parts.copy()).flatten(3).flatten(1, 2)
            self.register_buffer(f"stage_{index}", flat, persistent=False)
        self.register_buffer("bins", torch.from_numpy(_bins(self.digits, radices)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Points FP64 (points / r_first, parts, r_first, columns) to results FP64 (groups, 2, r_last, columns).

        Element [b, part, a] is of point (points / r_first)·a + b. Parts: real and imaginary; `real` takes the first.
        """
        x = torch.matmul(self.get_buffer("stage_0"), x.flatten(1, 2))
        groups, digits, left = 1, self.digits, self.points // self.radices[0]
        for index, radix in enumerate(self.radices[1:], start=1):
            left //= radix
            x = x.reshape(groups, radix, left, digits, -1).transpose(1, 3)
            groups, digits = groups * digits, radix
            x = torch.matmul(self.get_buffer(f"stage_{index}"), x.reshape(groups, left, 2 * radix, -1))
        return x.reshape(groups, 2, digits, -1)

    @staticmethod
    def power(results: Tensor) -> Tensor:
        """Squared magnitudes of results (groups, 2, r_last, …), in the order of `bins`: (groups · r_last, …)."""
        return (results * results).sum(1).flatten(0, 1)


def _stage(points: int, radix: int) -> NDArray[np.complex128]:
    """DFTs of `radix` points and the twiddle factors behind them: (points / radix, radix, radix), axes b, c, a."""
    digit = np.arange(radix)
    rest = np.arange(points // radix)
    turns = np.outer(digit, digit) / radix + rest[:, None, None] * digit[:, None] / points
    return np.asarray(np.exp(-2j * np.pi * turns))


def _as_real(matrices: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Complex (b, c, a) acting on real and imaginary parts: (b, c, part of the result, a, part of the input)."""
    re, im = matrices.real, matrices.imag
    return np.stack([np.stack([re, -im], -1), np.stack([im, re], -1)], 2)


def _bins(digits: int, radices: tuple[int, ...]) -> NDArray[np.int64]:
    """The bin c_1 + r_1·(c_2 + r_2·(…)) for each combination of digits, the last one's fastest."""
    bins = np.arange(digits, dtype=np.int64)
    weight = radices[0]
    for radix in radices[1:]:
        bins = (bins[:, None] + weight * np.arange(radix)).reshape(-1)
        weight *= radix
    return bins
