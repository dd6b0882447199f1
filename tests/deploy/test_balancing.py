"""Calls to one name with two addresses, as a headless Service has them: shared evenly, and none lost by a drain.

The drain is that of the manifests with shorter times: the name forgets the pod, its connections come of age, the client
asks for addresses again, and only then comes SIGTERM. Without the wait, hundreds of calls met a server that still took
them and had no models any more.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import local_pod
import pytest
from ports import free_port

from rfserve.clients.connection import CHANNEL_ARGUMENTS
from rfserve.loadtest.measurement import Run
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security

pytestmark = [pytest.mark.server, pytest.mark.skipif(bool(local_pod.impossible()), reason=local_pod.impossible())]

MODEL = "mel_features"
NAME = "triton.rfserve.test"
ADDRESSES = ("127.0.0.2", "127.0.0.3")
AGE_S = 2.0
ASK_AGAIN_S = dict(CHANNEL_ARGUMENTS)["grpc.dns_min_time_between_resolutions_ms"] / 1000
CLIENT = Path(__file__).with_name("balanced_client.py")


@pytest.fixture
def servers(small_model: Path) -> Iterator[list[TritonServer]]:
    port = free_port(ADDRESSES[0])
    with ExitStack() as running:
        yield [
            running.enter_context(
                TritonServer(
                    ServerOptions(
                        repository=small_model,
                        models=(MODEL,),
                        address=address,
                        grpc_port=port,
                        http_port=0,
                        metrics_port=0,
                        exit_timeout_s=20,
                        extra_arguments=(f"--grpc-max-connection-age={AGE_S * 1000:.0f}",),
                        security=Security(open_admin=True),
                    )
                )
            )
            for address in ADDRESSES
        ]


def served(server: TritonServer) -> int:
    (found,) = (s for s in server.http.statistics() if s["name"] == MODEL)
    return int(found["inference_stats"]["success"]["count"])


@pytest.fixture
def hosts(tmp_path) -> Path:
    """A file of names in which `NAME` has both addresses."""
    file = tmp_path / "hosts"
    file.write_text(Path("/etc/hosts").read_text() + "".join(f"{a} {NAME}\n" for a in ADDRESSES))
    return file


def knowing(hosts: Path, *words: object) -> list[str]:
    """A command that finds names in this file."""
    script = f"mount --bind {hosts} /etc/hosts && exec {shlex.join(map(str, words))}"
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script]


PLAN = """
device = "cpu-2core"
repetitions = 2
warm_up_s = 0.3
figures = ["error_rate"]
[budgets.mel_features]
p50_ms = 2000
p95_ms = 3000
p99_ms = 20000
error_rate = 0.2
[[phases]]
name = "steady"
duration_s = 1
streams = [{ model = "mel_features", rate_hz = 30 }]
"""


def test_load_test_of_a_name_compares_no_counts_of_two_pods(servers, hosts, tmp_path):
    port = servers[0].grpc_url.rpartition(":")[2]
    plan, file = tmp_path / "mine.toml", tmp_path / "run.json"
    plan.write_text(PLAN)
    before = [served(s) for s in servers]
    words = [sys.executable, "-m", "rfserve.loadtest.cli", "check", plan, "--url", f"{NAME}:{port}", "--json", file]
    done = subprocess.run(knowing(hosts, *words), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    # Both were asked, so that neither counted all of it.
    assert all(served(s) - b >= 20 for s, b in zip(servers, before, strict=True))
    measured = Run.read(file).measurements
    assert [m.server for m in measured] == [None, None]
    assert {m.server_note.partition(",")[0] for m in measured} == {f"no statistics: {NAME}:{port} has 2 addresses"}


@pytest.mark.alone
def test_calls_to_a_name_are_shared_and_none_is_lost_when_a_pod_drains(servers, hosts):
    rest = Path("/etc/hosts").read_text()
    port = servers[0].grpc_url.rpartition(":")[2]
    words = knowing(hosts, sys.executable, CLIENT, f"{NAME}:{port}")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as client:
        try:

            def say(line: str) -> None:
                client.stdin.write(f"{line}\n")

            assert client.stdout.readline() == "ready\n"
            before = [served(s) for s in servers]
            say("200")
            assert json.loads(client.stdout.readline()) == {"calls": 200, "errors": [], "retried": []}
            shares = [served(s) - b for s, b in zip(servers, before, strict=True)]
            assert sum(shares) == 200
            assert all(90 <= n <= 110 for n in shares), shares

            say("go")
            time.sleep(0.5)
            # In place: it is this file that is mounted.
            hosts.write_text(rest + f"{ADDRESSES[1]} {NAME}\n")
            time.sleep(1.1 * AGE_S + ASK_AGAIN_S + 1)
            servers[0].send_signal(signal.SIGTERM)
            assert servers[0].drained(20) == 0
            time.sleep(0.5)
            say("stop")
            done = json.loads(client.stdout.readline())
            assert done["errors"] == []
            assert done["retried"] == []
            assert done["calls"] > 50
        finally:
            client.kill()
