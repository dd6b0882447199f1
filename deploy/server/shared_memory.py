"""The shared memory through which tritonserver talks to its Python stubs."""

import uuid
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open puts them, not a place for temporary files


def new_prefix() -> str:
    """A name that no other server on this host uses for its regions."""
    return f"rfserve-{uuid.uuid4().hex[:12]}"


def regions(prefix: str) -> list[Path]:
    """The regions whose name begins so."""
    return sorted(FOLDER.glob(f"{prefix}*")) if FOLDER.is_dir() else []


def remove(prefix: str) -> None:
    """Remove what a server left behind that had no time to: shared memory outlives a killed process."""
    for region in regions(prefix):
        region.unlink(missing_ok=True)
