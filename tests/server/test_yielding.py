"""Steps that feed others let those go first: their processes' nice value, in the files and in a running server."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

from rfserve.export import pbtxt
from rfserve.export.spec import GRAPHS, MODELS

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
    found = _most_nice(server.pid)
    expected = {name: {own + (pbtxt.YIELDING_NICE if name in FEEDING else 0)} for name in found}
    assert found == expected
    assert set(found) > FEEDING


def _most_nice(server: int) -> dict[str, set[int]]:
    """By model, the nice value of each stub's thread that runs the graph: the process's own."""
    found = defaultdict(set)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or os.getpgid(int(process.name)) != server:
            continue
        command = (process / "cmdline").read_text()
        if "triton_python_backend_stub" not in command:
            continue
        models = [name for name in GRAPHS if f"/{name}/" in command]
        found[models[0]].add(os.getpriority(os.PRIO_PROCESS, int(process.name)))
    return dict(found)
