"""How far fixes are from the truth, and whether what they say of it is so."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (50, 68, 90)
CONFIDENCES = (0.50, 0.68, 0.95)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Errors in metres at the quantiles of `QUANTILES`; what follows is None for ways that give no sigma.

    `inside` is the share of truths in the ellipse of each of `CONFIDENCES`, `nll` the mean negative log-likelihood in
    nats of the error in metres, `sigma_m` the median of sqrt(north² + east²).
    """

    events: int
    error_m: tuple[float, ...]
    inside: tuple[float, ...] | None = None
    nll: float | None = None
    sigma_m: float | None = None


def measure(error_m: NDArray[np.float64], sigma_m: NDArray[np.float64] | None = None) -> Accuracy:
    """Of errors (n, 2) and standard deviations (n, 2) to the north and east, in metres."""
    distance = np.hypot(*error_m.T)
    quantiles = tuple(float(q) for q in np.percentile(distance, QUANTILES))
    if sigma_m is None:
        return Accuracy(events=len(error_m), error_m=quantiles)
    squared = squared_distance(error_m, sigma_m)
    nll = 0.5 * squared + np.log(sigma_m).sum(1) + math.log(2 * math.pi)
    return Accuracy(
        events=len(error_m),
        error_m=quantiles,
        inside=tuple(inside(squared, np.array(CONFIDENCES)).tolist()),
        nll=float(nll.mean()),
        sigma_m=float(np.median(np.hypot(*sigma_m.T))),
    )


def squared_distance(error_m: NDArray[np.float64], sigma_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n/σn)² + (e/σe)² of each error, (n,): Mahalanobis' distance, squared."""
    return np.asarray(((error_m / sigma_m) ** 2).sum(1))


def ellipse_limit(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squared distance of an ellipse's edge, -2 ln(1 - p): chi-squared's quantile of two degrees of freedom."""
    return np.asarray(-2 * np.log1p(-confidence))


def inside(squared: NDArray[np.float64], confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of squared distances (n,) within the ellipse of each confidence (m,), (m,)."""
    return np.asarray((squared[:, None] <= ellipse_limit(confidence)).mean(0))
