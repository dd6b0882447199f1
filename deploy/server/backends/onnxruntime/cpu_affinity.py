"""Which CPU each thread of an instance runs on.

Linux may wake ONNX Runtime's worker on the CPU where the main thread already runs: the two then take turns, for
milliseconds, while another CPU idles. That happens to requests that come one by one. A thread that may only run on its
own CPU cannot meet it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

AFFINITY_OPTION = "session.intra_op_thread_affinities"


def cpus(available: Sequence[int], *, threads: int, instances: int, index: int) -> tuple[int, ...]:
    """The CPUs of instance `index` (from 0), one for each of its threads, the main thread's first; empty for none.

    Only where the instances' threads and the `available` CPUs are equally many: with fewer threads the kernel has free
    CPUs to choose from, and a container that may use two of a node's many would sit on the first two with all others.
    """
    if threads < 2 or not 0 <= index < instances or threads * instances != len(available):
        return ()
    return tuple(sorted(available)[index * threads : (index + 1) * threads])


def worker_option(chosen: Sequence[int]) -> str:
    """The workers' CPUs as ONNX Runtime's `session.intra_op_thread_affinities` takes them: counted from 1."""
    return ";".join(str(cpu + 1) for cpu in chosen[1:])


def of_instance(config: Mapping[str, Any], instance: str, threads: int) -> tuple[int, ...]:
    """The CPUs of the instance that Triton calls `instance` (`MODEL_GROUP_INDEX`) by its model's configuration.

    Empty where the system says nothing of CPUs.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    groups = [int(g.get("count", 1)) for g in config.get("instance_group", ()) if g.get("kind") == "KIND_CPU"]
    *_, group, index = instance.rsplit("_", 2)
    if len(groups) != 1 or group != "0" or not index.isdigit():
        return ()
    available = sorted(os.sched_getaffinity(0))
    return cpus(available, threads=threads, instances=groups[0], index=int(index))


def stay_on(cpu: int) -> None:
    """Keep the calling thread on one CPU; threads that it starts afterwards inherit that."""
    os.sched_setaffinity(0, {cpu})
