"""A map of fixes: where transmitters stood, where they were placed, and how sure of it the network was."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfserve.export.training import drawing
from rfserve.export.training.accuracy import ellipse_limit

# So many fixes can be told apart.
MOST = 40
CONFIDENCE = 0.68

Metres = NDArray[np.float64]


def draw(truths_m: Metres, fixes_m: Metres, sigma_m: Metres, receivers_m: Metres, file: Path) -> None:
    """Draw `MOST` of the fixes, evenly spread over the events, as SVG.

    Truths, fixes and their sigma (events, 2) and receivers (n, 2) in metres to the north and east.
    """
    # matplotlib takes a second to import, and only drawing needs it.
    from matplotlib.patches import Ellipse  # noqa: PLC0415

    shown = np.unique(np.linspace(0, len(truths_m) - 1, MOST).round().astype(int))
    across_m = 2 * np.sqrt(ellipse_limit(np.array(CONFIDENCE))) * sigma_m
    with drawing.figure(file, 7, 5) as figure:
        panel = figure.subplots()
        panel.set_aspect("equal")
        for i in shown:
            north, east = fixes_m[i]
            panel.add_patch(Ellipse((east, north), across_m[i, 1], across_m[i, 0], facecolor="tab:red", alpha=0.06))
            panel.plot([truths_m[i, 1], east], [truths_m[i, 0], north], color="grey", linewidth=0.6)
        _marks(panel, receivers_m, "^", "tab:blue", "receivers")
        _marks(panel, truths_m[shown], "+", "tab:green", "where transmitters stood")
        _marks(panel, fixes_m[shown], ".", "tab:red", f"fixes, with {CONFIDENCE:.0%} ellipses")
        drawing.label(panel, "metres to the east")
        panel.set_ylabel("metres to the north", fontsize=drawing.SMALL)
        panel.legend(fontsize=7)


def _marks(panel: Any, places_m: Metres, marker: str, color: str, what: str) -> None:
    panel.plot(places_m[:, 1], places_m[:, 0], marker, color=color, label=what)
