"""`locust -f loadtest/locustfile.py`: whom it asks, and how it ends. Real Locust processes against the null server."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port

from rfserve.export.spec import MODELS
from rfserve.loadtest.measurement import Measurement, Run

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
LOCUST = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]
WORKERS = ["--processes", "2"]
PAIR = ("HeimdallNetUser", "HeimdallNetProUser")


@contextmanager
def null_server(model: str) -> Iterator[tuple[int, str]]:
    """Whoever expects as many tensors as the model has takes its zeros for an answer."""
    command = [sys.executable, "-m", "rfserve.loadtest.null_server", model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with null_server("heimdall_net") as (_, place):
        yield place


def locust(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*LOCUST, "--headless", "--only-summary", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*LOCUST, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_server_that_answers_all_of_it_keeps_every_budget(url):
    wide = ["--budget-ms", "heimdall_net=5000"]
    done = locust("--host", url, "-t", "8s", "HeimdallNetUser", "--rate-scale", "20", *wide)
    # A generator that shares two cores with other tests may be too slow to prove anything, and says so.
    assert done.returncode == 0 or (done.returncode == 3 and "INVALID" in done.stdout), done.stdout
    assert re.search(r"throughput_hz +200 +200 to 200 .* pass", done.stdout), done.stdout


@pytest.mark.parametrize(("chosen", "processes"), [((), []), (PAIR, WORKERS), (("LocateUser",), [])])
def test_every_chosen_model_is_asked_at_once_and_judged(url, tmp_path, chosen, processes):
    file = tmp_path / "run.json"
    done = locust("--host", url, "-t", "4s", *chosen, *processes, "--report-json", str(file))
    assert "nothing was sent" not in done.stdout, done.stdout
    by_model: dict[str, list[Measurement]] = {}
    for measurement in Run.read(file).measurements:
        by_model.setdefault(measurement.model, []).append(measurement)
    names = {"".join(p.capitalize() for p in model.split("_")) + "User": model for model in MODELS}
    assert set(by_model) == {names[name] for name in chosen or names}
    assert all(sum(m.sent for m in group) for group in by_model.values())
    assert [done.stdout.count(f" locust: {m} ") for m in by_model] == [1] * len(by_model)
    if len(by_model) > 1:
        # Of one rate, and of schedules of their own.
        first, second = ([m.scheduled for m in by_model[name]] for name in ("heimdall_net", "heimdall_net_pro"))
        assert first != second


def test_chosen_class_that_sent_nothing_proves_nothing(url):
    done = locust("--host", url, "-t", "4s", *PAIR, "-u", "1", "--figures", "throughput_hz")
    assert done.returncode == 3, done.stdout
    (idle,) = re.findall(r"nothing was sent by (\w+); give a longer -t, and no -u or 2", done.stdout)
    assert idle in PAIR


def test_broken_budget_outweighs_a_class_that_sent_nothing():
    wide = [f"--budget-ms={model}=5000" for model in ("heimdall_net", "heimdall_net_pro")]
    # One tensor is not two: a server that is there, and answers nothing well.
    with null_server("mel_features") as (_, url):
        done = locust("--host", url, "-t", "4s", *PAIR, "-u", "1", "--figures", "error_rate", *wide)
    assert "nothing was sent by" in done.stdout
    assert "invalid answer" in done.stdout
    assert done.returncode == 1, done.stdout


def test_server_that_is_away_is_no_broken_budget(tmp_path):
    away, file = f"127.0.0.1:{free_port()}", tmp_path / "run.json"
    done = locust("--host", away, "-t", "3s", "HeimdallNetUser", "--report-json", str(file))
    assert done.returncode == 2, done.stdout
    assert f"error: no connection to {away} within" in done.stdout
    assert not file.exists()


def test_master_waits_for_the_last_answers_of_its_workers():
    options = ["--headless", "--only-summary", "-t", "4s", *PAIR, *WORKERS, "--timeout-s", "3"]
    with null_server("heimdall_net") as (server, url), begun("--host", url, *options) as process:
        assert any("All users spawned" in line for line in process.stdout)
        time.sleep(2)
        os.kill(server, signal.SIGSTOP)
        said, _ = process.communicate(timeout=60)
    assert "nothing was sent" not in said
    assert len(re.findall("sent, [0-9]+ late, [1-9][0-9]* failed", said)) == 2, said


@pytest.mark.parametrize(("stopped_first", "processes"), [(True, WORKERS), (False, [])])
def test_web_page_has_a_user_for_each_chosen_class_and_ctrl_c_the_verdict(url, processes, stopped_first):
    port = free_port()
    options = ["--host", url, "--web-host", "127.0.0.1", "--web-port", str(port), "--figures", "throughput_hz"]
    with begun(*PAIR, *options, *processes) as process:
        page = _page(port, process)
        (found,) = re.findall(r"window\.templateArgs = (\{.*?\});?\s*\n", page)
        shown = json.loads(found)
        assert (shown["num_users"], shown["spawn_rate"]) == (2, 2)
        form = urllib.parse.urlencode({"user_count": shown["num_users"], "spawn_rate": 2, "host": url}).encode()
        assert json.loads(_get(port, "swarm", form))["success"]
        time.sleep(4)
        if stopped_first:
            _get(port, "stop", b"")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert "nothing was sent" not in said
    assert said.count("/s open loop, 5 x") == 2, said
    assert process.returncode in ({0, 3} if "INVALID" in said else {0}), said


def _get(port: int, path: str, form: bytes | None = None) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", form, timeout=30) as answer:
        return str(answer.read().decode())


def _page(port: int, process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            return _get(port, "")
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
