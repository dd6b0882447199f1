"""Stubs that died or stand still: the quickest sign of a dead instance, read from /proc without asking the server."""

from collections.abc import Iterable, Mapping

from rfserve.server import process_group
from rfserve.server.process_group import Stub

# A stub that leaves on purpose is a zombie until tritonserver has waited for it, which takes less than two looks.
ZOMBIE_LOOKS = 2
# A debugger, say, may stop a process for a moment.
STOPPED_LOOKS = 6


class StubWatch:
    """The stubs of one tritonserver, looked at again and again."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._known: dict[int, Stub] = {}
        self._looks: dict[int, int] = {}
        self._done: set[int] = set()

    def refresh(self) -> None:
        """Take note of stubs that have come since: one that has died cannot be told any more."""
        for stub in process_group.stubs(self._leader):
            if stub.pid not in self._done:
                self._known.setdefault(stub.pid, stub)

    def look(self) -> list[Stub]:
        """The stubs found dead or stopped now, each once. Call it every half second or so."""
        lost = []
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

    def kill(self, groups: Iterable[str], *, all_of_them: bool) -> None:
        """End the stopped stubs of the instance groups, or all of theirs, without reporting them as lost."""
        wanted = tuple(f"{g}_" for g in groups)
        found = [s.pid for s in process_group.stubs(self._leader) if s.instance.startswith(wanted)]
        pids = found if all_of_them else [pid for pid in found if process_group.state(pid) == "T"]
        self._done.update(pids)
        for pid in pids:
            self._known.pop(pid, None)
        process_group.kill(pids)


def owner(stub: Stub, groups: Mapping[str, str]) -> str | None:
    """The model of a stub, by the names of the instance groups: an instance is its group's name, `_` and a number."""
    return groups.get(stub.instance.rpartition("_")[0])
