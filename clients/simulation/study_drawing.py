"""A study as a picture, drawn by matplotlib (`pip install 'rfserve[png]'`)."""

from collections.abc import Sequence
from pathlib import Path

from rfserve.clients.errors import ClientError
from rfserve.clients.simulation.study import SNR, STUDIES, Step

SMALL = 8


def draw(steps: Sequence[Step], file: Path) -> None:
    """Median and 90 % error, and the median sigma, against every step, as SVG; `ClientError` when it cannot be written.

    The same steps give the same bytes. matplotlib is needed.
    """
    # An extra of its own, and slow to import.
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = [study for study in STUDIES if any(s.study == study.name for s in steps)]
    with rc_context({"svg.hashsalt": "rfserve", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3.2 * len(shown), 3), layout="constrained")
        for panel, study in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
            at = [s for s in steps if s.study == study.name]
            # Steps grow by more than their size: each gets the same room.
            panel.set_xticks(range(len(at)), [f"{s.snr_db:.0f}" if study.name == SNR else f"{s.at:g}" for s in at])
            panel.plot([s.error_m[2] for s in at], "o-", markersize=3, label="90 % error")
            panel.plot([s.sigma_m for s in at], "s--", markersize=3, label="sigma, median")
            panel.plot([s.error_m[0] for s in at], "o-", markersize=3, label="median error")
            panel.set_xlabel(study.axis, fontsize=SMALL)
            panel.tick_params(labelsize=SMALL)
            panel.grid(alpha=0.3)
        # All panels share it: set before the last is drawn, it would cut off what is higher there.
        figure.axes[0].set_ylim(bottom=0)
        figure.axes[0].set_ylabel("metres", fontsize=SMALL)
        figure.axes[0].legend(fontsize=SMALL)
        try:
            figure.savefig(file, format="svg", metadata={"Date": None})
        except OSError as error:
            raise ClientError(f"cannot write {file}: {error.strerror}") from error
