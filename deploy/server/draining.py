"""Waiting for a tritonserver that was told to stop: what is in flight is answered, then it is gone."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from rfserve.server import process_group

POLL_S = 0.1
# Triton writes it when nothing is in flight any more; what follows is unloading.
_DRAINED = "All models are stopped, unloading models"


def wait_until_gone(process: "subprocess.Popen[bytes]", log: Callable[[], str], patience_s: float) -> int:
    """The exit code of a process that got its SIGTERM; 0 when it had answered all and was ended here.

    Triton (2.51) never lets go of a model whose stub died, mended or not: it would wait out its exit time-out with
    nothing to do, and fail. So it is ended once all is answered and no living stub is left. One that is still there
    after `patience_s` is killed, and the code is then -9.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_S)
        if _only_corpses_left(process.pid) and _DRAINED in log():
            end_group(process.pid)
            process.wait()
            return 0
    end_group(process.pid)
    return process.wait()


def end_group(leader: int) -> None:
    """Kill a process and all it has started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _only_corpses_left(leader: int) -> bool:
    others = [process_group.state(pid) for pid in process_group.members(leader) if pid != leader]
    return "Z" in others and set(others) == {"Z"}
