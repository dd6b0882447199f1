"""The folder of a run: what the run was asked, the checkpoint to go on from, and what came of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfserve.export import checkpoint as checkpoints
from rfserve.export.durable_files import replaced
from rfserve.export.errors import CheckpointError, DataError

CHECKPOINT, ASKED, RESULT = "last.ckpt", "asked.json", "result.json"


def begin(folder: Path, asked: Mapping[str, Any], *, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None when there is none yet; the folder is made.

    `DataError` when another run has it, `resume` finds no run or one that was asked something else, or the checkpoint
    is damaged. Folders of earlier versions do not say all of what is asked now: what they do not say is not compared.
    """
    file, checkpoint = folder / ASKED, folder / CHECKPOINT
    try:
        before = json.loads(file.read_text()) if file.exists() else None
        if before is None:
            if resume:
                raise DataError(f"--resume: {folder} holds no run; leave it out, or name the run's folder")
            folder.mkdir(parents=True, exist_ok=True)
            write(file, asked)
            return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: {error}; expected a folder for the run") from error
    if not resume:
        raise DataError(f"{folder} holds a run; go on with --resume, or name another folder")
    changed = [name for name in asked if name in before and json.loads(json.dumps(asked[name])) != before[name]]
    if changed:
        raise DataError(f"{folder} was begun with other {', '.join(changed)}; give what {ASKED} there says")
    if not checkpoint.exists():
        return None
    try:
        checkpoints.read(checkpoint)
    except CheckpointError as error:
        raise DataError(f"--resume: {error}; delete {checkpoint}, and the run begins anew") from error
    return checkpoint


def result(folder: Path) -> Mapping[str, Any]:
    """What came of the run; empty when nothing is known."""
    try:
        held = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all; `DataError` when that fails."""
    try:
        with replaced({file.name: (json.dumps(content, indent=2, default=str) + "\n").encode()}, file.parent):
            pass
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}; make room there, and try again") from error
