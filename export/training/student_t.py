"""The loss of a position that is far off more often than a normal error would be."""

import math

from torch import Tensor


def negative_log_likelihood(error: Tensor, sigma: Tensor, degrees: float) -> Tensor:
    """In nats (n,), of errors (n, 2) whose scales are `sigma` (n, 2): Student's t of two dimensions, both unrelated.

    -ln p = ln 2π + Σ ln σ + (ν + 2) / 2 · ln(1 + q / ν), with q = Σ (error / σ)² and ν = `degrees` of freedom (Kotz and
    Nadarajah 2004, 1.1). Normal errors are the limit of many degrees. With few, an error of many sigmas pulls less than
    one of two: outliers neither bend the position nor widen the sigma of what is like them (Lange, Little and Taylor
    1989). The standard deviation is σ sqrt(ν / (ν - 2)).
    """
    squared = (error / sigma).square().sum(1)
    return math.log(2 * math.pi) + sigma.log().sum(1) + (degrees + 2) / 2 * (squared / degrees).log1p()
