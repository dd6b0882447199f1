"""Raw samples and the file that holds them: exact to a microsecond, refused when it is something else."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import SCHEMA, GeneratorUse, Machine, Measurement, Run, ServerSplit

SPLIT = ServerSplit(requests=4, executions=2, queue_ms=1.5, compute_ms=8.25, network_ms=0.5, mean_batch=2.0)
MACHINE = Machine(
    cpu_model="a core", cores=2, memory_bytes=1 << 34, kernel="6.1", python="3.11", versions={"locust": "2"}
)


def measurement(**changes) -> Measurement:
    due = np.array([0.0, 0.25, 0.5, 1.0])
    fields = {
        "phase": "steady",
        "model": "heimdall_net",
        "repetition": 0,
        "precision": "fp32",
        "version": "1",
        "loop": "open",
        "target_rate_hz": 2.5,
        "duration_s": 2.0,
        "due_s": due,
        "sent_s": due + 0.000_123,
        "done_s": due + np.array([0.010_001, 0.02, 0.03, 0.4]),
        "failures": {"deadline": 1},
        "late": 0,
        "sent": 5,
        "scheduled": 5,
        "lateness_limit_ms": 5.0,
        "server": SPLIT,
        "generator": GeneratorUse(cpu_share=0.1, processes=1, hosts=("here",)),
    }
    return Measurement(**(fields | changes))


def run(*measurements: Measurement) -> Run:
    return Run(
        name="smoke",
        device="cpu-2core",
        started="2026-01-02T03:04:05+00:00",
        url="127.0.0.1:8001",
        machine=MACHINE,
        measurements=measurements or (measurement(),),
        plan={"name": "smoke", "phases": [{"name": "steady"}]},
    )


def test_figures_follow_from_the_samples():
    found = measurement()
    assert found.latency_ms(100) == pytest.approx(400)
    # Interpolation would say something that no request had.
    assert found.latency_ms(50) == pytest.approx(30)
    assert found.send_latency_ms(100) == pytest.approx(399.877)
    assert (found.achieved_rate_hz, found.goodput_hz, found.error_rate) == (2.5, 2.0, 0.2)
    nothing = measurement(due_s=np.empty(0), sent_s=np.empty(0), done_s=np.empty(0), failures={}, sent=0)
    assert math.isnan(nothing.latency_ms(99))
    assert math.isnan(nothing.error_rate)


def test_file_holds_everything_to_the_microsecond(tmp_path):
    rng = np.random.default_rng(0)
    due = np.sort(rng.uniform(0, 3600, 1000))
    long = measurement(due_s=due, sent_s=due + 1e-4, done_s=due + rng.uniform(0, 1, 1000), sent=1001, scheduled=1002)
    bare = measurement(server=None, server_note="no key", loop="closed", target_rate_hz=None, repetition=1)
    written = run(long, bare)
    written.write(tmp_path / "run.json")
    found = Run.read(tmp_path / "run.json")
    assert (found.name, found.device, found.started, found.url) == ("smoke", "cpu-2core", written.started, written.url)
    assert (found.machine, found.plan) == (MACHINE, written.plan)
    for before, after in zip(written.measurements, found.measurements, strict=True):
        for name, value in vars(before).items():
            if name.endswith("_s") and name != "duration_s":
                np.testing.assert_allclose(getattr(after, name), value, atol=0.5e-6, rtol=0)
            else:
                assert getattr(after, name) == value, name
    found.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "run.json").read_text()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ("[]", "holds no run"),
        (json.dumps({"schema": SCHEMA, "kind": "performance", "cases": []}), "holds no run"),
        (json.dumps({"schema": SCHEMA + 1, "measurements": []}), "a newer rfserve wrote it"),
        (json.dumps({"schema": SCHEMA - 1, "measurements": []}), "measure again"),
        (json.dumps({"schema": SCHEMA, "name": "x", "measurements": []}), "no complete run: 'machine' is missing"),
    ],
)
def test_foreign_file_is_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(LoadTestError, match=message):
        Run.read(tmp_path / "run.json")
    with pytest.raises(LoadTestError, match="cannot read"):
        Run.read(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("device",), None, "Run.device: got 'None'; expected str"),
        (("machine", "memory_bytes"), "16 GB", "Machine.memory_bytes: got '16 GB'; expected int"),
        (("machine", "versions", "locust"), 2, "Machine.versions"),
        (("measurements", 0, "late"), None, "Measurement.late: got 'None'; expected int"),
        (("measurements", 0, "target_rate_hz"), "fast", "target_rate_hz: got 'fast'; expected float | None"),
        (("measurements", 0, "server", "queue_ms"), True, "ServerSplit.queue_ms: got 'True'; expected float"),
        (("measurements", 0, "generator", "hosts"), [1], "GeneratorUse.hosts"),
        (("measurements", 0, "failures"), [], "Measurement.failures"),
        (("measurements", 0, "due_us"), ["soon"], "no complete run"),
        (("measurements", 0, "done_us"), [10**30], "no complete run"),
        (("measurements", 0, "extra"), 1, "extra"),
    ],
)
def test_values_of_another_kind_are_refused(tmp_path, place, value, message):
    run().write(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(LoadTestError, match=re.escape(message)):
        Run.read(tmp_path / "run.json")


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    run().write(tmp_path / "run.json")
    whole = (tmp_path / "run.json").read_text().rstrip()
    for size in range(0, len(whole), 50):
        (tmp_path / "run.json").write_text(whole[:size])
        with pytest.raises(LoadTestError, match="expected the whole JSON of a run"):
            Run.read(tmp_path / "run.json")


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(LoadTestError, match="cannot write"):
        run().write(tmp_path / "missing" / "run.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"done_s": np.zeros(3)}, "shapes"),
        ({"loop": "closed"}, "open with a rate"),
        ({"target_rate_hz": None}, "open with a rate"),
        ({"sent": 4}, "answered or failed"),
        ({"scheduled": 4}, "answered or failed"),
        ({"duration_s": 0.0}, "answered or failed"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(LoadTestError, match=message):
        replace(measurement(), **changes)
