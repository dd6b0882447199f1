"""Plans carried out by real Locust processes against a real tritonserver: verdicts, workers, counts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from ports import free_port
from served import BriefServer

from rfserve.loadtest import cli, endpoint, failure
from rfserve.loadtest.endpoint import Endpoint, key_of
from rfserve.loadtest.engine import Engine
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Run
from rfserve.loadtest.plan import Phase, Plan, Stream
from rfserve.server.process import ServerOptions
from rfserve.server.security import Security

pytestmark = pytest.mark.server

KEY = "of-the-administrator=with/some+signs=="
# Two cores that the server, the generator and other tests share are no place for tight limits.
WIDE = "p50_ms = 2000\np95_ms = 3000\np99_ms = 20000\nerror_rate = 0.2"


def plan_file(folder: Path, budget: str, *, rate_hz: float = 30, duration_s: float = 1, figures: str = "") -> Path:
    file = folder / "mine.toml"
    file.write_text(
        f'device = "cpu-2core"\nrepetitions = 2\nwarm_up_s = 0.3\n{figures}\n'
        f'[budgets.mel_features]\n{budget}\n[[phases]]\nname = "steady"\nduration_s = {duration_s}\n'
        f'streams = [{{ model = "mel_features", rate_hz = {rate_hz} }}]\n'
    )
    return file


FEW = 'figures = ["p50_ms", "error_rate", "throughput_hz"]'


@pytest.mark.alone
def test_budgets_that_hold_pass_and_are_written(server, repository, tmp_path, capsys):
    plan, file = plan_file(tmp_path, WIDE, figures=FEW), tmp_path / "run.json"
    options = ["--url", server.grpc_url, "--repository", str(repository), "--json", str(file)]
    code = cli.main(["check", str(plan), *options])
    shown = capsys.readouterr()
    assert code == 0, shown.out
    assert "repetition 2 of 2: steady" in shown.err
    assert shown.out.count("PASS") == 1
    run = Run.read(file)
    assert [m.repetition for m in run.measurements] == [0, 1]
    for measurement in run.measurements:
        assert (measurement.version, measurement.precision) == ("1", "fp32")
        assert measurement.scheduled == measurement.sent == measurement.answered == 30
        assert 0 <= measurement.due_s[0] <= measurement.due_s[-1] < 1
        # Later than due, and by the same clock.
        assert (measurement.sent_s >= measurement.due_s - 1e-6).all()
        assert (measurement.done_s > measurement.sent_s).all()
        split = measurement.server
        assert split is not None
        assert 0.9 * measurement.answered <= split.requests <= 1.5 * measurement.answered
        assert 1 <= split.mean_batch < 2
        assert 0 < split.compute_ms < measurement.latency_ms(100)
        assert 0 < measurement.generator.cpu_share < 0.9
    # Every repetition has a schedule of its own.
    assert not np.array_equal(run.measurements[0].due_s, run.measurements[1].due_s)
    assert {"triton", "locust", "rfserve"} <= set(run.machine.versions)


def test_budget_that_is_broken_fails(server, tmp_path, capsys):
    # No busy machine makes this one better: nobody answers within ten microseconds, and one repetition shows it. Of a
    # millisecond, the client's timer is sometimes looked at after the answer has come.
    plan = plan_file(tmp_path, WIDE, figures=f"{FEW}\ntimeout_s = 0.00001")
    code = cli.main(["check", str(plan), "--url", server.grpc_url, "--repetitions", "1"])
    shown = capsys.readouterr().out
    assert code == 1, shown
    assert re.search(r"-> error_rate 1 .* is over the budget of 0\.2: .*deadline", shown), shown


@pytest.mark.alone
def test_rate_beyond_the_generator_is_invalid(server, tmp_path, capsys):
    # Late enough a p99 lets every request be late, and is no excuse for a schedule that takes longer than its window.
    plan = plan_file(tmp_path, WIDE.replace("20000", "60000"), rate_hz=20_000, duration_s=0.4, figures=FEW)
    code = cli.main(["check", str(plan), "--url", server.grpc_url, "--repetitions", "1"])
    shown = capsys.readouterr().out
    # Whatever the server made of it, this says nothing about the server.
    assert code == 3, shown
    assert "INVALID" in shown
    assert "requests a second went out (at least 99%)" in shown


def test_command_that_cannot_run_is_neither_pass_nor_fail(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(endpoint, "CONNECT_S", 0.5)
    for arguments, message in (
        (["check", "nothing-of-that-name"], "no plan 'nothing-of-that-name'"),
        (["check", "smoke", "--url", "nowhere"], "expected host:port"),
        (["check", "smoke", "--url", f"127.0.0.1:{free_port()}"], "no connection to 127.0.0.1:"),
        (["check", "smoke", "--models", "locate"], "no phase of locate alone"),
        (["check", "smoke", "--master"], "--expect-workers"),
        (["check", "smoke", "--admin-key-file", str(tmp_path / "none")], "expected the server's --admin-key-file"),
        (["check", "smoke", "--json", str(tmp_path / "none" / "x.json")], "make it first"),
    ):
        assert cli.main(arguments) == 2
        assert message in capsys.readouterr().err


def closed(users: int, duration_s: float = 0.5) -> Plan:
    phase = Phase(name="closed", duration_s=duration_s, streams=(Stream(model="mel_features", users=users),))
    return Plan(name="x", device="cpu-2core", phases=(phase,), repetitions=1, warm_up_s=0.3, timeout_s=2)


@pytest.mark.alone
def test_workers_share_one_schedule_and_one_closed_loop(server, engine, lone_engine):
    streams = (Stream(model="mel_features", rate_hz=25), Stream(model="heimdall_net", users=3))
    plan = Plan(
        name="x",
        device="cpu-2core",
        phases=(Phase(name="both", duration_s=1.2, streams=streams),),
        repetitions=1,
        warm_up_s=0.3,
    )
    (single, _), (shared, users) = (
        e.run(plan, Endpoint(url=server.grpc_url)).measurements for e in (lone_engine, engine)
    )
    assert (shared.generator.processes, single.generator.processes) == (2, 1)
    assert shared.sent == single.sent == 30
    # To the microsecond: the times are split between the workers, not drawn again.
    np.testing.assert_array_equal(shared.due_s, single.due_s)
    assert users.loop == "closed"
    assert users.answered > 10
    # Three of them wait for answers at any time, so that no more than three are in flight.
    starts = np.concatenate(
        [np.c_[users.sent_s, np.ones(users.answered)], np.c_[users.done_s, -np.ones(users.answered)]]
    )
    assert np.cumsum(starts[np.lexsort((starts[:, 1], starts[:, 0])), 1]).max() == 3


def test_server_that_is_away_fails_and_has_no_latency(engine):
    phase = Phase(name="away", duration_s=1, streams=(Stream(model="mel_features", rate_hz=20),))
    plan = Plan(name="x", device="cpu-2core", phases=(phase,), repetitions=1, warm_up_s=0, timeout_s=1)
    (found,) = engine.run(plan, Endpoint(url=f"127.0.0.1:{free_port()}")).measurements
    assert (found.sent, found.answered, found.server) == (20, 0, None)
    assert set(found.failures) <= {failure.UNAVAILABLE, failure.DEADLINE}


def test_deadline_counts_as_such(server, engine):
    phase = Phase(name="short", duration_s=1, streams=(Stream(model="locate", rate_hz=20),))
    plan = Plan(name="x", device="cpu-2core", phases=(phase,), repetitions=1, warm_up_s=0, timeout_s=0.002)
    (found,) = engine.run(plan, Endpoint(url=server.grpc_url)).measurements
    assert found.sent == 20
    assert found.failed > 0
    assert set(found.failures) <= {failure.DEADLINE, failure.EXPIRED}


def test_late_calls_are_not_cancelled(server, engine):
    """That can end a Triton, and a load test would measure it."""

    def cancelled():
        with urllib.request.urlopen(server.metrics_url) as answer:
            text = answer.read().decode()
        found = re.findall(r'nv_inference_request_failure{model="heimdall_net",reason="CANCELED",\S+} (\d+)', text)
        assert found
        return sum(map(int, found))

    before = cancelled()
    phase = Phase(name="short", duration_s=1, streams=(Stream(model="heimdall_net", rate_hz=60),))
    plan = Plan(name="x", device="cpu-2core", phases=(phase,), repetitions=1, warm_up_s=0, timeout_s=0.004)
    (found,) = engine.run(plan, Endpoint(url=server.grpc_url)).measurements
    assert found.failures[failure.DEADLINE] > 0
    assert cancelled() == before


def test_problem_of_a_worker_ends_the_run_with_its_words(server, engine, tmp_path):
    plan = closed(1).to_dict()
    plan["phases"][0]["streams"][0]["mix"]["events"] = str(tmp_path)
    with pytest.raises(LoadTestError, match=r"holds no \.sigmf-collection; expected a folder of events on this host"):
        engine.run(Plan.from_dict(plan), Endpoint(url=server.grpc_url))
    # And the next one is carried out.
    assert engine.run(closed(1), Endpoint(url=server.grpc_url)).measurements[0].answered > 0


def test_statistics_of_a_closed_server_need_the_key(repository, engine, tmp_path):
    options = ServerOptions(
        repository=repository,
        models=("mel_features",),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        security=Security(open_admin=True),
        extra_arguments=(f"--grpc-restricted-protocol=statistics:admin-key={KEY}",),
    )
    (tmp_path / "key").write_text(KEY + "\n")
    with BriefServer(options) as server:
        without = engine.run(closed(1), Endpoint(url=server.grpc_url)).measurements[0]
        given = Endpoint(url=server.grpc_url, admin_key=key_of(tmp_path / "key"))
        with_key = engine.run(closed(1), given).measurements[0]
    assert without.server is None
    assert "give --admin-key-file" in without.server_note
    assert with_key.server is not None
    assert given.to_dict()["admin_key"] is None


@contextmanager
def worker_elsewhere(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "rfserve.loadtest.cli", "worker", "--master-host", "127.0.0.1"]
    with subprocess.Popen([*command, "--master-port", str(port)], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(pid) for file in tasks for pid in file.read_text().split()]


def test_master_waits_for_workers_of_other_hosts(server, tmp_path):
    port = free_port()
    plan, file = plan_file(tmp_path, WIDE, figures=FEW), tmp_path / "run.json"
    options = ["--master", "--expect-workers", "2", "--master-bind-host", "127.0.0.1", "--master-port", str(port)]
    options += ["--url", server.grpc_url, "--json", str(file)]
    # They may be there before their master is.
    with worker_elsewhere(port) as first, worker_elsewhere(port) as second:
        command = [sys.executable, "-m", "rfserve.loadtest.cli", "check", str(plan), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        # The master sends them home.
        assert [first.wait(10), second.wait(10)] == [0, 0]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waits for 2 x `rfserve-loadtest worker" in done.stderr
    document = json.loads(file.read_text())
    assert [m["generator"]["processes"] for m in document["measurements"]] == [2, 2]
    assert all(m["sent"] == 30 for m in document["measurements"])
    with pytest.raises(LoadTestError, match="expected one or more together"):
        Engine(processes=0)


def test_worker_that_finds_no_server_says_so(tmp_path, capsys):
    port, plan = free_port(), plan_file(tmp_path, WIDE)
    options = ["--master", "--expect-workers", "1", "--master-bind-host", "127.0.0.1", "--master-port", str(port)]
    with worker_elsewhere(port):
        assert cli.main(["check", str(plan), *options, "--url", f"127.0.0.1:{free_port()}"]) == 2
    assert "no connection to 127.0.0.1:" in capsys.readouterr().err


def test_worker_that_never_comes_is_an_error_in_time(tmp_path, capsys):
    options = ["--master", "--expect-workers", "1", "--master-bind-host", "127.0.0.1", "--master-port"]
    plan, begun = plan_file(tmp_path, WIDE), time.monotonic()
    code = cli.main(["check", str(plan), *options, str(free_port()), "--wait-s", "1"])
    assert code == 2
    assert "0 of 1 load generators have come after 1 s" in capsys.readouterr().err
    assert time.monotonic() - begun < 20


def test_worker_of_another_version_is_named():
    port = free_port()
    source = (
        "from rfserve.loadtest import messages\n"
        "messages.versions = lambda: {'rfserve': '0.0.1'}\n"
        "import runpy\nrunpy.run_module('rfserve.loadtest.locust_worker', run_name='__main__')"
    )
    command = [sys.executable, "-c", source, "--master-host", "127.0.0.1", "--master-port", str(port)]
    alone = Engine(processes=0, listen=("127.0.0.1", port), expect_workers=1)
    with alone as engine, subprocess.Popen(command) as process:
        try:
            with pytest.raises(LoadTestError, match=r"has {'rfserve': '0\.0\.1'}; expected .*'numpy'"):
                engine.run(closed(1), Endpoint(url="127.0.0.1:9"))
        finally:
            process.kill()


def test_master_port_that_is_taken_is_an_error(tmp_path, capsys):
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        options = ["--master", "--expect-workers", "1", "--master-bind-host", "127.0.0.1", "--master-port"]
        assert cli.main(["check", str(plan_file(tmp_path, WIDE)), *options, str(holder.getsockname()[1])]) == 2
    assert "give another --master-port" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_worker_that_dies_is_an_error_in_time_and_leaves_nothing(server, where):
    """What a worker sent before it died is a part of the load at best, and proves nothing."""
    port, before = free_port(), set(children(os.getpid()))
    timers: list[threading.Timer] = []

    def kill_soon(pid: int) -> None:
        timers.append(threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)))
        timers[-1].start()

    own = 2 if where == "here" else 1
    with worker_elsewhere(port) as other, Engine(processes=own, listen=("127.0.0.1", port), expect_workers=1) as engine:
        master_and_own = set(children(os.getpid())) - before - {other.pid}
        assert len(master_and_own) == 1 + own
        victim = max(master_and_own) if where == "here" else children(other.pid)[0]
        begun = time.monotonic()
        message = "of this host ended with -9" if where == "here" else r"gone or hangs \(lost "
        with pytest.raises(LoadTestError, match=message):
            engine.run(closed(1, duration_s=60), Endpoint(url=server.grpc_url), progress=lambda _: kill_soon(victim))
        assert time.monotonic() - begun < 40
        # With its part gone, the command on the other host says so too.
        engine.stop()
        assert other.wait(10) == (0 if where == "here" else 2)
        left = [pid for pid in master_and_own if Path(f"/proc/{pid}").exists()]
    for timer in timers:
        timer.join()
    assert not left
