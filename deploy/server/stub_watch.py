"""Stubs that died or stand still: the quickest sign of a dead instance, read from /proc without asking the server."""

import time
from collections.abc import Iterable, Mapping

from rfserve.server import process_group
from rfserve.server.process_group import Stub

# A stub that leaves on purpose is a zombie until tritonserver has waited for it, which takes less than two looks.
ZOMBIE_LOOKS = 2
# What an unloaded model may still be answering; Triton never lets go of the stubs beside one that died.
RETIRED_S = 10.0
# A debugger, say, may stop a process for a moment.
STOPPED_LOOKS = 6


class StubWatch:
    """The stubs of one tritonserver, looked at again and again."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._known: dict[int, Stub] = {}
        self._looks: dict[int, int] = {}
        self._done: set[int] = set()
        self._retired: dict[int, float] = {}

    def refresh(self) -> None:
        """Take note of stubs that have come since: one that has died cannot be told any more."""
        for stub in process_group.stubs(self._leader):
            if stub.pid not in self._done:
                self._known.setdefault(stub.pid, stub)

    def look(self) -> list[Stub]:
        """The stubs found dead or stopped now, each once. Call it every half second or so."""
        lost = []
        self.end_retired()
        for pid, stub in list(self._known.items()):
            state = process_group.state(pid)
            if state in {"Z", "T"}:
                self._looks[pid] = self._looks.get(pid, 0) + 1
                if self._looks[pid] >= (ZOMBIE_LOOKS if state == "Z" else STOPPED_LOOKS):
                    lost.append(stub)
            else:
                self._looks.pop(pid, None)
            if not state or stub in lost:
                self._known.pop(pid, None)
                self._looks.pop(pid, None)
        self._done.update(stub.pid for stub in lost)
        return lost

    def end_retired(self) -> bool:
        """End the retired stubs whose time is over; whether there are others. Without them a server does not stop."""
        for pid, end_s in list(self._retired.items()):
            if time.monotonic() > end_s:
                self._retired.pop(pid)
                # Its number may be another process's by now.
                process_group.kill([s.pid for s in process_group.stubs(self._leader) if s.pid == pid])
        return bool(self._retired)

    def retire(self, groups: Iterable[str], *, stuck: bool) -> None:
        """Have done with the stubs of the instance groups, whose model is about to be loaded anew: the stopped ones, or
        all when they are `stuck`, end at once, and what is left of the others soon.
        """
        wanted = tuple(f"{g}_" for g in groups)
        pids = [s.pid for s in process_group.stubs(self._leader) if s.instance.startswith(wanted)]
        self._done.update(pids)
        at_once = [pid for pid in pids if stuck or process_group.state(pid) == "T"]
        process_group.kill(at_once)
        for pid in pids:
            self._known.pop(pid, None)
            if pid not in at_once:
                self._retired[pid] = time.monotonic() + RETIRED_S


def owner(stub: Stub, groups: Mapping[str, str]) -> str | None:
    """The model of a stub, by the names of the instance groups: an instance is its group's name, `_` and a number."""
    return groups.get(stub.instance.rpartition("_")[0])
