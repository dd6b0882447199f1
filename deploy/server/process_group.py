"""The processes of one tritonserver: which ones there are, what state they are in, and what memory they hold.

Linux only, as tritonserver itself is.
"""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class Stub:
    """The process that runs one instance of a model of the Python backend."""

    pid: int
    instance: str


def members(leader: int) -> list[int]:
    """The ids of all processes in the group of `leader`, itself included."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def stubs(leader: int) -> list[Stub]:
    """The living stubs. A dead one has no command line any more, so it is not among them."""
    found = []
    for pid in members(leader):
        try:
            words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        # stub, model, region, two sizes, parent, library, offset, instance, runtime
        if Path(words[0]).name == STUB and len(words) > 8:
            found.append(Stub(pid=pid, instance=words[8]))
    return found


def state(pid: int) -> str:
    """The letter of `/proc/PID/stat`: Z for a zombie, T for a stopped process; empty when there is none."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def kill(pids: list[int]) -> None:
    """SIGKILL, which a stopped process obeys too."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory_bytes(pid: int) -> Mapping[str, int]:
    """The sums of `/proc/PID/smaps_rollup` by the names that they have there; empty when there is no such process.

    `Pss` is resident memory with shared pages counted once over all who share them (proportional set size), and
    `Pss_Anon`, `Pss_File` and `Pss_Shmem` are its parts.
    """
    try:
        _, *lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (OSError, ValueError):
        return {}
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def resident_bytes(leader: int) -> Mapping[str, int]:
    """The memory of the server itself and of its stubs together."""
    return {
        "tritonserver": memory_bytes(leader).get("Pss", 0),
        "stubs": sum(memory_bytes(pid).get("Pss", 0) for pid in members(leader) if pid != leader),
    }
