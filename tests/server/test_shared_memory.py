"""Nothing of a server is left in shared memory, however it or its launcher ended."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfserve.server import shared_memory
from rfserve.server.process import ServerOptions, TritonServer

pytestmark = pytest.mark.server


@pytest.fixture
def options(repository: Path, tmp_path: Path) -> ServerOptions:
    shutil.copytree(repository / "mel_features", tmp_path / "repository" / "mel_features")
    return ServerOptions(repository=tmp_path / "repository", grpc_port=0, http_port=0, metrics_port=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_server_leaves_no_region(options, number):
    with TritonServer(options) as server:
        prefix = server.shared_memory_prefix
        assert shared_memory.regions(prefix)
        server.send_signal(number)
        server.wait()
    assert shared_memory.regions(prefix) == []


def test_killed_launcher_takes_its_server_along(options):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rfserve.server.process import ServerOptions, TritonServer\n"
        "options = ServerOptions(repository=Path(sys.argv[1]), grpc_port=0, http_port=0, metrics_port=0)\n"
        "with TritonServer(options) as server:\n"
        "    print(server.pid, server.shared_memory_prefix, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(options.repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid, prefix = launcher.stdout.readline().split()
        assert shared_memory.regions(prefix)
        launcher.kill()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (shared_memory.regions(prefix) or Path(f"/proc/{pid}").exists()):
        time.sleep(0.1)
    leftover = shared_memory.regions(prefix)
    if Path(f"/proc/{pid}").exists():
        os.killpg(int(pid), signal.SIGKILL)
    shared_memory.remove(prefix)
    assert leftover == []
