"""Signals to `rfserve-server run` and `exec` at any time: their server, a stand-in that may ignore SIGTERM, goes."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from rfserve.server import process_group

# It says yes to everything once it serves; "loading" never gets so far, and neither heeds SIGTERM when it is "deaf".
TRITONSERVER = f"""#!{sys.executable} -S
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

place, (kind, deaf) = Path(os.environ["PLACE"]), os.environ["STAND_IN"].split()

def told(*_):
    (place / "told").touch()
    if deaf == "hears":
        os._exit(0)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{{}}")

    do_POST = do_GET

signal.signal(signal.SIGTERM, told)
prefix = next(a.rpartition("=")[2] for a in sys.argv if "shm-region-prefix-name=" in a)
(place / "region").symlink_to(f"/dev/shm/{{prefix}}-0")
(place / "region").write_text("held")
(place / "pid.part").write_text(str(os.getpid()))
(place / "pid.part").rename(place / "pid")
while kind == "loading":
    time.sleep(1)
port = next(a.partition("=")[2] for a in sys.argv if a.startswith("--http-port="))
HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""
SERVER = ["--repository", "s3://http://127.0.0.1:1/bucket/nothing", "--model", "any", "--no-watchdog"]
SERVER += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
# Says each signal that it gets and how often, and ends a while after the first unless it is to stay.
COMMAND = """
import signal, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
print("begun", flush=True)
while not got:
    time.sleep(0.05)
time.sleep(0.5)
print(*got, flush=True)
while "stay" in sys.argv:
    time.sleep(1)
sys.exit(5)
"""


class Launcher:
    """`rfserve-server` or another program with the stand-in on PATH, in a session of its own."""

    def __init__(self, place: Path, stand_in: str, command: list[str], **options) -> None:
        for name in ("bin", "temporary"):
            (place / name).mkdir()
        (place / "bin" / "tritonserver").write_text(TRITONSERVER)
        (place / "bin" / "tritonserver").chmod(0o755)
        self.place, self.temporary = place, place / "temporary"
        environment = os.environ | {"PLACE": str(place), "STAND_IN": stand_in, "TMPDIR": str(self.temporary)}
        environment["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while not (self.place / name).exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"no {name}"
            time.sleep(0.02)

    @property
    def server(self) -> int:
        return int((self.place / "pid").read_text())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def nothing_is_left(self) -> bool:
        found = [*self.temporary.iterdir(), *[f for f in [self.place / "region"] if f.exists()]]
        return process_group.state(self.server) in {"", "Z"} and not found

    def end(self) -> None:
        groups = {self.process.pid}
        if (self.place / "pid").exists() and process_group.members(self.server):
            groups.add(self.server)
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.process.communicate()
        (self.place / "region").resolve().unlink(missing_ok=True)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    """Starts a launcher, which is ended with the test."""
    with ExitStack() as stack:

        def begin(stand_in: str, *command: str, **options) -> Launcher:
            launcher = Launcher(tmp_path, stand_in, list(command), **options)
            stack.callback(launcher.end)
            return launcher

        yield begin


def rfserve_server(command: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rfserve.server.cli", command, *SERVER, *arguments]


def test_any_number_of_signals_while_models_load_leaves_nothing(launch):
    launcher = launch("loading deaf", *rfserve_server("run"))
    launcher.wait_for("pid")
    launcher.process.send_signal(signal.SIGINT)
    launcher.wait_for("told")
    for _ in range(2):
        launcher.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, errors = launcher.process.communicate(timeout=60)
    assert launcher.process.returncode == 1
    assert errors == b"error: stopped by SIGINT while the models were loading\n"
    assert launcher.nothing_is_left()


def test_server_that_does_not_heed_sigterm_while_it_loads_is_killed(launch):
    launcher = launch("loading deaf", *rfserve_server("run"))
    launcher.wait_for("pid")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.process.wait(60) == 1
    assert launcher.nothing_is_left()


def test_second_signal_kills_a_server_that_does_not_heed_the_first(launch):
    launcher = launch("serving deaf", *rfserve_server("run", "--exit-timeout-s", "3600"))
    while not launcher.line().startswith("ready: "):
        assert launcher.process.poll() is None
    launcher.process.send_signal(signal.SIGTERM)
    launcher.wait_for("told")
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.process.wait(60) == 128 + signal.SIGINT
    assert launcher.nothing_is_left()


def test_interrupt_while_a_server_is_being_stopped_leaves_nothing(launch):
    program = (
        "import time\n"
        "from rfserve.server.process import ServerOptions, TritonServer\n"
        "ports = {'grpc_port': 0, 'http_port': 0, 'metrics_port': 0}\n"
        "with TritonServer(ServerOptions(repository='s3://http://127.0.0.1:1/bucket/x', models=('any',), **ports)):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(600)\n"
    )
    launcher = launch("serving deaf", sys.executable, "-c", program)
    assert launcher.line() == "begun"
    launcher.process.send_signal(signal.SIGINT)
    launcher.wait_for("told")
    launcher.process.send_signal(signal.SIGINT)
    _, errors = launcher.process.communicate(timeout=60)
    assert errors.endswith(b"KeyboardInterrupt\n")
    assert launcher.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_exec_passes_a_signal_on_and_then_ends_the_server(launch, number):
    launcher = launch("serving hears", *rfserve_server("exec", "--", sys.executable, "-c", COMMAND))
    assert launcher.line() == "begun"
    launcher.process.send_signal(number)
    assert launcher.line() == number.name
    assert launcher.process.wait(60) == 5
    assert launcher.nothing_is_left()


def test_second_signal_kills_the_command(launch):
    launcher = launch("serving hears", *rfserve_server("exec", "--", sys.executable, "-c", COMMAND, "stay"))
    assert launcher.line() == "begun"
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.line() == "SIGTERM"
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.process.wait(60) == 128 + signal.SIGKILL
    assert launcher.nothing_is_left()


def test_exec_that_is_stopped_while_models_load_does_not_begin(launch):
    launcher = launch("loading hears", *rfserve_server("exec", "--", sys.executable, "-c", COMMAND))
    launcher.wait_for("pid")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.process.communicate(timeout=60) == (
        b"",
        b"error: stopped by SIGTERM while the models were loading\n",
    )
    assert launcher.process.returncode == 1
    assert launcher.nothing_is_left()


def test_command_gets_a_terminals_interrupt_once(launch):
    command = rfserve_server("exec", "--", sys.executable, "-c", COMMAND)
    in_terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *command]
    launcher = launch("serving hears", *in_terminal, stdin=subprocess.PIPE)
    assert launcher.line() == "begun"
    launcher.process.stdin.write(b"\x03")
    launcher.process.stdin.flush()
    assert launcher.line().removeprefix("^C") == "SIGINT"
    assert launcher.process.wait(60) == 0
    assert launcher.nothing_is_left()


def test_killed_launcher_takes_along_a_server_that_does_not_heed_sigterm(launch):
    launcher = launch("loading deaf", *rfserve_server("run", "--exit-timeout-s", "1"))
    launcher.wait_for("pid")
    # The server, and what outlives the launcher.
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children")
    while len(children.read_text().split()) < 2:
        time.sleep(0.02)
    launcher.process.kill()
    launcher.process.wait()
    deadline = time.monotonic() + 100
    while not launcher.nothing_is_left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert launcher.nothing_is_left()


def test_nobody_tidies_up_the_folders_of_a_running_server(launch):
    """What systemd-tmpfiles finds locked it leaves alone."""
    launcher = launch("serving hears", *rfserve_server("exec", "--", sys.executable, "-c", COMMAND))
    assert launcher.line() == "begun"
    folders = list(launcher.temporary.iterdir())
    assert sorted(f.name.rpartition("-")[0] for f in folders) == ["rfserve", "rfserve-traces"]
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(descriptor)
    inherited = {f.readlink() for f in Path(f"/proc/{launcher.server}/fd").iterdir()}
    assert not inherited & set(folders)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.process.wait(60) == 5
