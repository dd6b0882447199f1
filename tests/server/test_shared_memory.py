"""Nothing of a server is left in shared memory, however it or its launcher ended."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rfserve.server import process_group, shared_memory
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.process_group import STUB

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


@pytest.mark.parametrize("when", ["loading", "serving"])
def test_killed_launcher_takes_its_server_along(options, when):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rfserve.server.process import ServerOptions, TritonServer\n"
        "options = ServerOptions(repository=Path(sys.argv[1]), grpc_port=0, http_port=0, metrics_port=0)\n"
        "server = TritonServer(options)\n"
        "print(server.shared_memory_prefix, flush=True)\n"
        "with server:\n"
        "    print('serving', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(options.repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        prefix = launcher.stdout.readline().strip()
        if when == "serving":
            assert launcher.stdout.readline()
        while not (shared_memory.regions(prefix) and processes(prefix, STUB)):
            assert launcher.poll() is None
            time.sleep(0.01)
        launcher.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (shared_memory.regions(prefix) or processes(prefix)):
        time.sleep(0.1)
    leftover = (shared_memory.regions(prefix), processes(prefix))
    process_group.kill(processes(prefix))
    shared_memory.remove(prefix)
    assert leftover == ([], [])


def processes(prefix: str, name: str = "") -> list[int]:
    """Those that were started with it: a server, its stubs, and what clears up after them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_text(errors="replace")
            if prefix in words and name in words:
                found.append(int(file.parent.name))
    return found
