"""A folder for what a server reads again only when it loads a model, which may be weeks later."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def held_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder whose name begins with `prefix`, removed when it is left.

    systemd removes from /tmp what nobody has used for some days, but nothing of a folder that somebody has locked
    (tmpfiles.d(5), at "Age"). Only this process holds the lock: its children do not inherit the descriptor.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Not every file system has locks, and all works without. Exclusive: to clean up may take a shared one.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
