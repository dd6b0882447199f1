"""Figures as SVG files, the same bytes for the same numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfserve.export.errors import DataError

SMALL = 8


@contextmanager
def figure(file: Path, width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure of this size in inches, written when the context ends; `DataError` when it cannot be."""
    # Seconds to import, and only drawing needs it.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({"svg.hashsalt": "rfserve", "svg.fonttype": "none"}):
        made = Figure(figsize=(width, height), layout="constrained")
        yield made
        try:
            made.savefig(file, format="svg", metadata={"Date": None})
        except OSError as error:
            raise DataError(f"cannot draw {file}: {error.strerror}; name another file") from error


def label(panel: Any, x: str) -> None:
    """Say what the panel's horizontal axis is, in small letters, over a faint grid."""
    panel.set_xlabel(x, fontsize=SMALL)
    panel.tick_params(labelsize=SMALL)
    panel.grid(alpha=0.3)
