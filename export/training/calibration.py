"""Whether ellipses hold what they say: the share of truths inside, against the confidence that was asked for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfserve.export.training import drawing
from rfserve.export.training.accuracy import ellipse_limit, inside, squared_distance

STEPS = np.linspace(0.02, 0.98, 49)


def shares(error_m: NDArray[np.float64], sigma_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of errors (n, 2) inside the ellipse of each confidence of `STEPS`; both in metres, north and east."""
    return inside(squared_distance(error_m, sigma_m), STEPS)


def sigma_factor(error_m: NDArray[np.float64], sigma_m: NDArray[np.float64], confidence: float = 0.68) -> float:
    """What to multiply sigma by, so that the ellipse of this confidence holds this share of the truths."""
    needed = np.quantile(squared_distance(error_m, sigma_m), confidence)
    return float(np.sqrt(needed / ellipse_limit(np.array(confidence))))


def draw(found: Mapping[str, NDArray[np.float64]], file: Path) -> None:
    """The shares of every set of events against the confidences, as SVG."""
    with drawing.figure(file, 4, 4) as figure:
        panel = figure.subplots()
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="as it should be")
        for name, at in found.items():
            panel.plot(STEPS, at, label=name)
        drawing.label(panel, "confidence of the ellipse")
        panel.set_ylabel("share of truths inside", fontsize=drawing.SMALL)
        panel.legend(fontsize=7)
