"""Whether ellipses hold what they say: the share of truths inside, against the confidence that was asked for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STEPS = np.linspace(0.02, 0.98, 49)


def shares(error_m: NDArray[np.float64], sigma_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of errors (n, 2) inside the ellipse of each confidence of `STEPS`; both in metres, north and east."""
    squared = ((error_m / sigma_m) ** 2).sum(1)
    return np.asarray((squared[:, None] <= -2 * np.log1p(-STEPS)).mean(0))


def sigma_factor(error_m: NDArray[np.float64], sigma_m: NDArray[np.float64], confidence: float = 0.68) -> float:
    """What to multiply sigma by, so that the ellipse of this confidence holds this share of the truths."""
    squared = ((error_m / sigma_m) ** 2).sum(1)
    return float(np.sqrt(np.quantile(squared, confidence) / (-2 * np.log1p(-confidence))))


def draw(found: Mapping[str, NDArray[np.float64]], file: Path) -> None:
    """The shares of every set of events against the confidences, as SVG."""
    # Seconds to import.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "rfserve", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4, 4), layout="constrained")
        panel = figure.subplots()
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="as it should be")
        for name, inside in found.items():
            panel.plot(STEPS, inside, label=name)
        panel.set_xlabel("confidence of the ellipse", fontsize=8)
        panel.set_ylabel("share of truths inside", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
        figure.savefig(file, format="svg", metadata={"Date": None})
