"""Run a command that is told to end when the process that started it is gone, however that one ended.

`python tether.py PARENT_PID COMMAND …` becomes the command. Linux sends the signal when the thread dies that started
it; `subprocess` could set this up in the child itself only by a fork that gRPC's threads do not survive.

The command's threads, and its processes', are scheduled as SCHED_BATCH: a thread that wakes up does not take the CPU
from the one that woke it. In a server, where each request wakes half a dozen of them in turn, that costs more than it
gives; and Triton's batcher, woken by an instance that is about to be free, otherwise often looks before it is.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal and the scheduling, and become the command."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(f"the process {parent} that started this is gone")
    # A sandbox may forbid it, and all works without.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.execv(command[0], command)  # noqa: S606 - an argument list of the launcher


if __name__ == "__main__":
    main()
