"""How training went: the figures of every epoch, kept in the checkpoint, as a table and as a drawing."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rfserve.export.training import drawing

# What is drawn in which panel, with its unit.
PANELS = {
    "negative log-likelihood": ("train_nll",),
    "held-out error (m)": ("held_median_m", "held_p90_m"),
    "held-out truths in the 68 % ellipse": ("held_inside_68",),
}


class Curves(Callback):  # type: ignore[misc]
    """Collects what is logged at the end of each epoch; a run that goes on from a checkpoint has all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Add the epoch, counted from 1, with its figures."""
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch + 1.0, **figures})

    @property
    def last(self) -> dict[str, float]:
        """The figures of the last epoch."""
        return {name: value for name, value in self.rows[-1].items() if name != "epoch"}

    def state_dict(self) -> dict[str, Any]:
        """As the checkpoint holds it."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The way back."""
        self.rows = list(state_dict["rows"])

    def write(self, file: Path) -> None:
        """The figures as CSV, one epoch a line."""
        names = list(self.rows[-1])
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def draw(self, file: Path) -> None:
        """The figures as SVG, a panel each, the same bytes for the same figures."""
        with drawing.figure(file, 10, 3) as figure:
            for panel, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
                for name in names:
                    rows = [row for row in self.rows if name in row]
                    panel.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=name)
                panel.set_title(title, fontsize=9)
                drawing.label(panel, "epoch")
                panel.legend(fontsize=7)
