"""Checkpoints that a full disk or a kill leaves as they were."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from rfserve.export.durable_files import replaced
from rfserve.export.errors import DataError


class DurableCheckpoints(TorchCheckpointIO):  # type: ignore[misc]
    """Writes a checkpoint beside the one that it replaces; the trainer's own way copies over it from `TMPDIR`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:  # noqa: ARG002
        """Save it, and wait until it is on the disk; `DataError` when that fails, with the last one as it was."""
        file, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        try:
            with replaced({file.name: content.getvalue()}, file.parent):
                pass
        except OSError as error:
            raise DataError(
                f"cannot write {file}: {error.strerror}; what was there is whole: make room and go on with --resume"
            ) from error
