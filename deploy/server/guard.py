"""Clear up after a server whose launcher was killed, and so could not: `python -m rfserve.server.guard …`.

tritonserver is told to end when its launcher dies, which is not enough. While its models load, SIGTERM ends it at once:
the stubs that it had started stay for ever, and so does their shared memory.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rfserve.server import draining, process_group, shared_memory

LAUNCHER_POLL_S = 0.5
SERVER_POLL_S = 0.1


@contextmanager
def guarding(
    server: int, *, patience_s: float, prefix: str, folders: Sequence[Path], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that outlives this one. When this one has died, it waits `patience_s` for the one with the id `server`
    to end, ends what is left of its group, and removes its shared memory (`prefix`) and `folders`.
    """
    process = subprocess.Popen(
        [
            # Not what happens to lie in the working directory.
            *(sys.executable, "-P", "-m", "rfserve.server.guard"),
            *(str(os.getpid()), str(server), str(patience_s), prefix, *(str(f) for f in folders)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        # A signal to the launcher's group is not for it.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Wait for the launcher to be gone, and clear up."""
    launcher, server, patience_s, prefix, *folders = sys.argv[1:]
    while os.getppid() == int(launcher):
        time.sleep(LAUNCHER_POLL_S)
    deadline = time.monotonic() + float(patience_s)
    while process_group.state(int(server)) not in {"", "Z"} and time.monotonic() < deadline:
        time.sleep(SERVER_POLL_S)
    draining.end_group(int(server))
    shared_memory.remove(prefix)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
