"""Who lets whom go first: steps that feed others by their nice value, and no thread takes a CPU on waking."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

from rfserve.export import pbtxt
from rfserve.export.spec import MODELS
from rfserve.server import process_group

FEEDING = {"iq_features", "mel_features"}


@pytest.mark.parametrize("configuration", pbtxt.CONFIGURATIONS)
def test_only_steps_that_feed_others_yield_and_only_cpus(configuration):
    found = {n: pbtxt.parse(pbtxt.config_text(s, configuration)).parameters for n, s in MODELS.items()}
    yielding = {name for name, parameters in found.items() if "nice" in parameters}
    assert yielding == (FEEDING if configuration == "cpu" else set())
    assert all(found[name]["nice"].string_value == str(pbtxt.YIELDING_NICE) for name in yielding)


@pytest.mark.server
def test_their_threads_yield_in_a_running_server(server):
    own = os.getpriority(os.PRIO_PROCESS, server.pid)
    found = defaultdict(set)
    for stub in process_group.stubs(server.pid):
        # A process's own nice value is that of the thread that runs the graph.
        found[stub.instance.rsplit("_", 2)[0]].add(os.getpriority(os.PRIO_PROCESS, stub.pid))
    expected = {name: {own + (pbtxt.YIELDING_NICE if name in FEEDING else 0)} for name in found}
    assert found == expected
    assert set(found) > FEEDING


@pytest.mark.server
def test_threads_that_wake_up_take_no_cpu_from_others(server):
    for pid in [server.pid, *(s.pid for s in process_group.stubs(server.pid))]:
        threads = {int(t.name) for t in Path(f"/proc/{pid}/task").iterdir()}
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}
