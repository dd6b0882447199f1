"""Freezing a process in the middle of a measurement, for the proof that a load test notices."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

STOPPED_S = 1.0


def freeze_after(delay_s: float, pids: Sequence[int], stopped_s: float = STOPPED_S) -> threading.Thread:
    """Stop the processes once, `delay_s` from now, for `stopped_s`; join the thread that does."""
    thread = threading.Thread(target=_freeze, args=(delay_s, pids, stopped_s), daemon=True)
    thread.start()
    return thread


def on_each_phase(delay_s: float, pids: Sequence[int], threads: list[threading.Thread]) -> Callable[[str], None]:
    """A progress callback: freezes the processes once in every repetition of every phase, this long after it began."""
    return lambda _: threads.append(freeze_after(delay_s, pids))


def _freeze(delay_s: float, pids: Sequence[int], stopped_s: float) -> None:
    time.sleep(delay_s)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(stopped_s)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
