"""What else this machine does while something is measured on it."""

import os
import time
from pathlib import Path

import psutil

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STAT = Path("/proc/stat")


class Bystanders:
    """Cores that other processes, the kernel and other machines on the same host take from now on.

    Everything that this process starts, and what those start, is its own. What of it ends before `cores` is read counts
    as others', so end nothing in between.
    """

    def __init__(self) -> None:
        self._begun_s, self._busy_s, self._own_s = time.monotonic(), _busy_s(), own_s()

    def cores(self) -> float:
        """The mean since it was made: 1.0 is one core."""
        busy_s, mine_s = _busy_s() - self._busy_s, own_s() - self._own_s
        return max(0.0, busy_s - mine_s) / (time.monotonic() - self._begun_s)


def _busy_s() -> float:
    """CPU seconds of all cores that were not idle, what the host took for others included."""
    user, nice, system, _, _, irq, soft_irq, steal = (int(n) for n in STAT.read_text().split()[1:9])
    return (user + nice + system + irq + soft_irq + steal) / TICKS_PER_S


def own_s() -> float:
    """CPU seconds of this process and all that come from it and still run."""
    me = psutil.Process()
    found = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found += times.user + times.system
    return found
