"""Files of results, which appear whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from rfserve.loadtest.errors import LoadTestError


def write(file: Path, content: str | bytes, *, make_folder: bool = False) -> None:
    """Replace a file at once, so that nobody reads half of it; `LoadTestError` when it cannot be written."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if make_folder:
            file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content if isinstance(content, bytes) else content.encode())
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise LoadTestError(f"cannot write {file}: {error}") from error
