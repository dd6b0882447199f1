"""Threads keep to CPUs of their own where an instance has all of them, and only there."""

import os
import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from served import BriefServer

from rfserve.export import pbtxt
from rfserve.server import process_group
from rfserve.server.backends.onnxruntime.cpu_affinity import cpus, of_instance, worker_option
from rfserve.server.process import ServerOptions


@pytest.mark.parametrize(
    ("available", "threads", "instances", "index", "expected"),
    [
        ((0, 1), 2, 1, 0, (0, 1)),
        ((3, 2, 7, 5), 2, 2, 0, (2, 3)),
        ((3, 2, 7, 5), 2, 2, 1, (5, 7)),
        ((0, 1, 2, 3), 2, 1, 0, ()),  # the kernel has two free ones to choose from
        (tuple(range(64)), 2, 1, 0, ()),  # a container with a share of a big node
        ((0,), 2, 1, 0, ()),
        ((0, 1), 1, 2, 1, ()),  # one thread meets nobody
        ((0, 1), 2, 1, 1, ()),
    ],
)
def test_only_an_instance_set_that_fills_the_machine_is_pinned(available, threads, instances, index, expected):
    assert cpus(available, threads=threads, instances=instances, index=index) == expected


def test_workers_are_counted_from_one_and_without_the_main_thread():
    assert worker_option((0, 1)) == "2"
    assert worker_option((5, 2, 0)) == "3;1"


@pytest.mark.parametrize(
    ("groups", "instance"),
    [
        ([{"kind": "KIND_GPU", "count": 1}], "m_0_0"),
        ([{"kind": "KIND_CPU", "count": 1}, {"kind": "KIND_CPU", "count": 1}], "m_1_0"),
        ([], "m_0_0"),
    ],
)
def test_other_placements_are_left_to_the_kernel(groups, instance):
    assert of_instance({"name": "m", "instance_group": groups}, instance, len(os.sched_getaffinity(0))) == ()


@pytest.mark.server
def test_a_model_that_fills_the_machine_keeps_to_its_cpus(repository: Path, tmp_path: Path):
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one CPU: there is nothing to choose")
    pair = set(sorted(before)[:2])
    shutil.copytree(repository / "mel_features", tmp_path / "mel_features")
    for file in (tmp_path / "mel_features").rglob("*.pbtxt"):
        config = pbtxt.parse(file.read_text())
        config.instance_group[0].count = 1
        config.parameters["intra_op_thread_count"].string_value = "2"
        file.write_text(text_format.MessageToString(config))
    options = ServerOptions(repository=tmp_path, grpc_port=0, http_port=0, metrics_port=0)
    # Inherited by what is started.
    os.sched_setaffinity(0, pair)
    try:
        with BriefServer(options) as server:
            threads = _allowed_cpus_of_stub(server.pid)
    finally:
        os.sched_setaffinity(0, before)
    alone = [cpus for cpus in threads if len(cpus) == 1]
    assert set().union(*alone) == pair, threads


def _allowed_cpus_of_stub(server: int) -> list[set[int]]:
    stub = process_group.stubs(server)[0]
    return [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{stub.pid}/task").iterdir()]
