"""How far off fixes are, by how near they are to what was learned.

Cells have no strip between them: an event that is held out may lie metres from one that was learned, and is easier.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from rfserve.export.training.evaluation import Evaluation
from rfserve.export.training.plane import around
from rfserve.export.training.rss_event import truths_deg
from rfserve.export.training.split import Split

NEAR_M, FAR_M = 25.0, 80.0
BANDS = (f"nearer than {NEAR_M:g} m", f"{NEAR_M:g} to {FAR_M:g} m", f"beyond {FAR_M:g} m")


def apart_m(split: Split) -> NDArray[np.float64]:
    """How far each event that is held out is from the nearest that is learned, (events,)."""
    plane = around(truths_deg(split.learned))
    learned, asked = plane.metres(truths_deg(split.learned)), plane.metres(truths_deg(split.held_out))
    return np.asarray(NearestNeighbors(n_neighbors=1).fit(learned).kneighbors(asked)[0][:, 0])


def table(found: Evaluation, split: Split) -> str:
    """The median error of every way in each of `BANDS`, as Markdown."""
    band = np.digitize(apart_m(split), (NEAR_M, FAR_M))
    counts = [int((band == i).sum()) for i in range(len(BANDS))]
    heads = [f"{name} ({count} events)" for name, count in zip(BANDS, counts, strict=True)]
    lines = [f"| median error, from the nearest learned | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for way, error_m in found.errors.error_m.items():
        distance = np.hypot(*error_m.T)
        cells = [f"{np.median(distance[band == i]):.0f} m" if count else "-" for i, count in enumerate(counts)]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)
