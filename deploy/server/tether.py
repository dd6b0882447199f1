"""Run a command that is told to end when the process that started it is gone, however that one ended.

`python tether.py PARENT_PID COMMAND …` becomes the command. Linux sends the signal when the thread dies that started
it; `subprocess` could set this up in the child itself only by a fork that gRPC's threads do not survive.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, and become the command."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit(f"the process {parent} that started this is gone")
    os.execv(command[0], command)  # noqa: S606 - an argument list of the launcher


if __name__ == "__main__":
    main()
