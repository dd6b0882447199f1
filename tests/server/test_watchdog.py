"""Dead, hung and busy models under a real server: the first two are mended, the last is left alone."""

import os
import re
import signal
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from rfserve.clients.connection import to_wire
from rfserve.export.spec import MODELS, example
from rfserve.server import process_group, status, stub_watch
from rfserve.server.canary import Outcome
from rfserve.server.errors import ServerError
from rfserve.server.model_watch import WatchOptions
from rfserve.server.options import ServerOptions
from rfserve.server.service import Service, ServiceOptions
from rfserve.server.stub_watch import StubWatch

MODEL = "heimdall_net"
SMALL = "mel_features"
EAGER = WatchOptions(interval_s=0.5, deadline_s=1.0, strikes=2, mend_limit_s=20.0)


def serve(repository: Path, watch: WatchOptions | None = None) -> Service:
    options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    return Service(ServiceOptions(server=options, watch=watch or WatchOptions()))


def stubs(service: Service, model: str = MODEL) -> list[int]:
    return [s.pid for s in process_group.stubs(service.server.pid) if s.instance.startswith(f"{model}_")]


def record(service: Service, model: str = MODEL):
    return service.watchdog.records[model]


def wait_until(condition, limit_s: float = 60.0) -> float:
    """How long it took to become true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, "it did not happen"
        time.sleep(0.05)
    return time.monotonic() - began


def counted_failures(service: Service) -> float:
    """Triton's own count of requests that an instance failed; it lasts over a mend."""
    page = urllib.request.urlopen(service.metrics_url).read().decode()
    found = re.findall(rf'nv_inference_request_failure{{model="{MODEL}",reason="BACKEND",version="1"}} (\S+)', page)
    return float(found[0])


def with_instances(repository: Path, count: int) -> Path:
    file = repository / SMALL / "configs" / "cpu.pbtxt"
    text, changed = re.subn(r"(instance_group \{\n  count: )\d+", rf"\g<1>{count}", file.read_text())
    assert changed == 1
    file.write_text(text)
    return repository


@pytest.mark.server
def test_stub_killed_under_load_is_replaced_within_10_s_and_failures_are_counted(part_of, call, capfd):
    with serve(part_of(MODEL, SMALL)) as service:
        callers = call(4, service.server.grpc_url, MODEL)
        others = call(1, service.server.grpc_url, SMALL)
        wait_until(lambda: all(len(c.answers) > 5 for c in callers) and record(service).outcome is Outcome.OK)
        killed = time.monotonic()
        os.kill(stubs(service)[0], signal.SIGKILL)
        wait_until(lambda: all(c.answers[-1] > killed + 1 for c in callers) and record(service).mends)
        time.sleep(1)
        for caller in (*callers, *others):
            caller.stop.set()
        failed = [when for c in callers for when, _ in c.failures]
        assert failed
        assert max(failed) - killed < 10
        assert min(max(c.answers) for c in callers) > max(failed)
        assert not others[0].failures
        assert (record(service).stubs_lost, record(service).mends, record(service).failed_mends) == (1, 1, 0)
        broken = [text for c in callers for _, text in c.failures if "not healthy" in text]
        assert counted_failures(service) >= len(broken) > 0
        assert all(m.well for m in status.read(service.server.http))
        began = time.monotonic()
        print(f"recovered after {max(failed) - killed:.1f} s, {len(failed)} failed")
        assert service.stop() == 0
        # Triton itself would wait out its exit time-out of 30 s for the stub that died.
        assert time.monotonic() - began < 20
    said = capfd.readouterr().err
    assert re.search(rf"watchdog: {MODEL}: stub {MODEL}_0_[01] .* died", said)
    assert re.search(rf"watchdog: {MODEL}: answers again after \d", said)


@pytest.mark.server
def test_one_dead_instance_of_two_is_noticed_by_canaries_alone_and_a_stopped_one_too(part_of, monkeypatch):
    with (
        monkeypatch.context() as blind,
        serve(with_instances(part_of(SMALL), 2), replace(EAGER, deadline_s=3.0)) as service,
    ):
        blind.setattr(StubWatch, "look", lambda _: [])
        before = stubs(service, SMALL)
        wait_until(lambda: SMALL in service.watchdog.records and record(service, SMALL).outcome is Outcome.OK)
        os.kill(before[1], signal.SIGKILL)
        wait_until(lambda: record(service, SMALL).mends)
        assert record(service, SMALL).canaries[Outcome.DEAD] > 0
        blind.undo()
        monkeypatch.setattr(stub_watch, "RETIRED_S", 0.5)
        now = [pid for pid in stubs(service, SMALL) if pid not in before]
        assert len(now) == 2
        os.kill(now[0], signal.SIGSTOP)
        wait_until(lambda: record(service, SMALL).mends == 2)
        assert process_group.state(now[0]) in {"Z", ""}
        # Its own kills are no fault to be mended, and Triton would keep the living one of each pair for ever.
        wait_until(lambda: len(stubs(service, SMALL)) == 2 and not {*before, *now} & set(stubs(service, SMALL)))
        assert record(service, SMALL).mends == 2
        assert service.stop() == 0


HANGING = """
import time
import urllib.request
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        if Path({flag!r}).exists():
            Path({flag!r} + "-seen").touch()
            time.sleep(1000)
        if Path({flag!r} + "-fails").exists():
            time.sleep(0.1)
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError("no")) for _ in requests]
        x = np.ones((1, 1), dtype=np.float32)
        return [pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("y", x)]) for _ in requests]
"""
HANGING_CONFIG = """
name: "hanging" backend: "python" max_batch_size: 4
input {{ name: "x" data_type: TYPE_FP32 dims: 1 }} output {{ name: "y" data_type: TYPE_FP32 dims: 1 }}
dynamic_batching {{ default_queue_policy {{ max_queue_size: 2 }} }}
"""


@pytest.fixture
def hanging(tmp_path: Path) -> tuple[Path, Path]:
    """A repository with a model that hangs for ever in what it does while a flag file is there; and that file."""
    model, flag = tmp_path / "hanging_repository" / "hanging", tmp_path / "flag"
    (model / "1").mkdir(parents=True)
    (model / "configs").mkdir()
    (model / "1" / "model.py").write_text(HANGING.format(flag=str(flag)))
    for file in (model / "config.pbtxt", model / "configs" / "cpu.pbtxt"):
        file.write_text(HANGING_CONFIG.format())
    return model.parent, flag


@pytest.mark.server
def test_hung_instance_is_replaced_and_given_up_when_that_does_not_help(hanging, capfd):
    repository, flag = hanging
    watch = WatchOptions(interval_s=0.5, deadline_s=0.5, strikes=2, mend_limit_s=2.0)
    with serve(repository, watch) as service:
        wait_until(lambda: "hanging" in service.watchdog.records and record(service, "hanging").outcome is Outcome.OK)
        flag.touch()
        wait_until(flag.with_name("flag-seen").exists)
        flag.unlink()
        (hung,) = stubs(service, "hanging")
        wait_until(lambda: record(service, "hanging").mends)
        assert process_group.state(hung) in {"Z", ""}
        assert service.watchdog.up() == {"hanging": True}
        flag.touch()
        assert service.wait() == 1
    said = capfd.readouterr().err
    assert "answers again" in said
    assert "mending did not help within 2 s" in said
    assert "ending the server, so that a supervisor starts it anew" in said


def ask_hanging(client: triton.InferenceServerClient, done) -> None:
    x = triton.InferInput("x", [1, 1], "FP32")
    x.set_data_from_numpy(np.ones((1, 1), np.float32))
    client.async_infer("hanging", [x], done)


@pytest.mark.server
def test_hung_instance_is_replaced_although_its_full_queue_refuses_every_canary(hanging, capfd):
    repository, flag = hanging
    watch = WatchOptions(interval_s=0.5, deadline_s=1.0, strikes=2, mend_limit_s=20.0)
    refused: list[str] = []

    def is_refused() -> bool:
        ask_hanging(client, lambda result, error: refused.append(str(error)))
        return any("maximum queue size" in text for text in refused)

    with (
        serve(repository, watch) as service,
        triton.InferenceServerClient(service.server.grpc_url) as client,
    ):
        wait_until(lambda: "hanging" in service.watchdog.records and record(service, "hanging").outcome is Outcome.OK)
        flag.touch()
        wait_until(is_refused)
        wait_until(flag.with_name("flag-seen").exists)
        flag.unlink()
        wait_until(lambda: record(service, "hanging").mends)
        wait_until(lambda: record(service, "hanging").outcome is Outcome.OK)
    said = capfd.readouterr().err
    assert re.search(r"hanging: canary silent: .*maximum queue size.*; nothing was executed for \d+ s; unloading", said)


@pytest.mark.server
def test_queue_full_of_requests_that_all_fail_is_no_hung_model(hanging):
    repository, flag = hanging
    watch = WatchOptions(interval_s=0.2, deadline_s=0.5, strikes=2)
    flag.with_name("flag-fails").touch()
    in_flight = threading.Semaphore(12)
    with (
        serve(repository, watch) as service,
        triton.InferenceServerClient(service.server.grpc_url) as client,
    ):
        wait_until(lambda: "hanging" in service.watchdog.records)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert in_flight.acquire(timeout=10)
            ask_hanging(client, lambda result, error: in_flight.release())
        found = record(service, "hanging")
        assert found.canaries[Outcome.BUSY] > 2
        assert found.outcome is not Outcome.DEAD
        assert found.mends == found.failed_mends == 0


@pytest.mark.server
def test_server_that_does_not_answer_is_ended(part_of, capfd):
    with serve(part_of(SMALL), EAGER) as service:
        pid = service.server.pid
        os.kill(pid, signal.SIGSTOP)
        assert service.wait() == 1
        wait_until(lambda: {process_group.state(p) for p in process_group.members(pid)} <= {"Z", ""})
    assert "tritonserver did not answer 2 times" in capfd.readouterr().err


@pytest.mark.server
def test_overloaded_model_is_left_alone_and_so_is_one_unloaded_on_purpose(part_of):
    with serve(part_of(MODEL), replace(EAGER, interval_s=0.3, deadline_s=0.7)) as service:
        inputs, outputs = to_wire(MODEL, example(MODELS[MODEL], batch=16))
        sent, refused, answered, enough = 0, [], [], threading.Event()

        def done(result, error) -> None:
            (refused if error else answered).append(str(error))

        with triton.InferenceServerClient(service.server.grpc_url) as client:
            # First canaries wait in the queue beyond their deadline, then they are refused like everybody else.
            for in_flight, seconds in ((100, 2.5), (250, 1.5)):
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    if sent - len(refused) - len(answered) < in_flight:
                        client.async_infer(MODEL, inputs, done, outputs=outputs)
                        sent += 1
                    else:
                        enough.wait(0.01)
            found = record(service)
            assert answered
            assert any("Exceeds maximum queue size" in text for text in refused)
            assert found.canaries.total() > 0
            assert (found.mends, found.failed_mends, service.given_up) == (0, 0, "")
        wait_until(lambda: record(service).outcome is Outcome.OK)
        # Nor is one that somebody took out of service.
        assert service.server.http.unload(MODEL, 10).ok
        time.sleep(2)
        assert record(service).mends == 0
        assert not service.server.http.model_ready(MODEL)


def test_watch_options_are_checked():
    with pytest.raises(ServerError, match="expected times and strikes above 0"):
        WatchOptions(interval_s=0)
