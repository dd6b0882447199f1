"""Where a server's memory is: by process and by kind of page, so that one that grows can be told from the rest."""

from collections import Counter
from collections.abc import Mapping, Sequence

from scipy import stats

from rfserve.server import process_group

KINDS = {"Pss_Anon": "private", "Pss_Shmem": "shared", "Pss_File": "files"}


def resident_parts(leader: int) -> Mapping[str, int]:
    """Bytes by "PROCESS KIND", pages that several share counted once over all of them."""
    names = {stub.pid: stub.instance for stub in process_group.stubs(leader)} | {leader: "tritonserver"}
    found: Counter[str] = Counter()
    for pid in process_group.members(leader):
        memory = process_group.memory_bytes(pid)
        for name, kind in KINDS.items():
            found[f"{names.get(pid, 'others')} {kind}"] += memory.get(name, 0)
    return found


def growths_bytes(times_s: Sequence[float], samples: Sequence[Mapping[str, int]]) -> Mapping[str, float]:
    """What each part grew by along its least-squares line, the most first."""
    span_s = times_s[-1] - times_s[0]
    parts = {name for sample in samples for name in sample}
    growths = {p: float(stats.linregress(times_s, [s.get(p, 0) for s in samples]).slope) * span_s for p in parts}
    return dict(sorted(growths.items(), key=lambda item: -item[1]))
