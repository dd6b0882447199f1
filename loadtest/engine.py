"""Runs plans with Locust in processes of its own, so that gevent's patches never reach the caller's."""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rfserve.loadtest.endpoint import Endpoint, key_of
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Run
from rfserve.loadtest.plan import Plan

LOOPBACK = "127.0.0.1"
MASTER_PORT = 5557
STOP_S = 10.0
LOOK_S = 0.5
WAIT_S = 120.0

Progress = Callable[[str], None]


def unreported(text: str) -> None:
    """Nobody is told how far it is."""


class Engine:
    """A Locust master and its workers, for any number of plans; use as `with Engine(processes=2) as engine`.

    `processes` generate load on this host. For others, `listen` on an address and port that they reach, and wait for
    `expect_workers` of `rfserve-loadtest worker`; `processes` of this host may be 0 then. A plan whose workers have not
    all come within `wait_s` is an error.
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        listen: tuple[str, int] = (LOOPBACK, 0),
        expect_workers: int | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._own = processes
        self._workers = processes + (expect_workers or 0)
        if processes < 0 or self._workers < 1:
            raise LoadTestError(f"got {processes} processes and {expect_workers} others; expected one or more together")
        self._listen, self._wait_s = listen, wait_s
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Engine":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes; `LoadTestError` when the port is taken. `stop` ends them."""
        host, port = self._listen
        try:
            arguments = ["--host", host, "--port", str(port), "--workers", str(self._workers)]
            arguments += ["--wait-s", str(self._wait_s)]
            self._spawn("locust_master", arguments, stdout=subprocess.PIPE)
            self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            self._listener = threading.Thread(target=self._listen_to, args=self._processes, daemon=True)
            self._listener.start()
            self.port = int(self._answer()["port"])
            reached = LOOPBACK if host in {"*", "0.0.0.0"} else host  # noqa: S104
            for _ in range(self._own):
                arguments = ["--master-host", reached, "--master-port", str(self.port), "--tethered"]
                self._spawn("locust_worker", arguments)
        except BaseException:
            self.stop()
            raise

    def run(
        self,
        plan: Plan,
        endpoint: Endpoint,
        *,
        repository: Path | None = None,
        look: bool = False,
        progress: Progress = unreported,
    ) -> Run:
        """Carry out a plan against a server; blocks until it is done.

        `repository` is where the versions' precisions are read. `LoadTestError` when a generator fails; a server that
        fails is a result, and with `look`, one that a generator cannot reach when it begins is an error.
        """
        with tempfile.TemporaryDirectory(prefix="rfserve-load-") as folder:
            file = Path(folder) / "run.json"
            order = {
                "plan": plan.to_dict(),
                "endpoint": {**endpoint.to_dict(), "admin_key": endpoint.admin_key},
                "repository": None if repository is None else str(repository),
                "look": look,
                "file": str(file),
            }
            master = self._processes[0]
            if master.stdin is None:
                raise AssertionError("the master has no stdin")
            with contextlib.suppress(BrokenPipeError):
                master.stdin.write(json.dumps(order) + "\n")
                master.stdin.flush()
            while "file" not in (answer := self._answer()):
                progress(answer["progress"])
            return Run.read(file)

    def stop(self) -> None:
        """End the processes, master first, which sends the workers home."""
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                self._listener.join()
                process.stdout.close()
        self._processes = []

    def _spawn(self, module: str, arguments: list[str], **streams: Any) -> None:
        # Ctrl-C is for this process, which ends the others.
        command = [sys.executable, "-m", f"rfserve.loadtest.{module}", *arguments]
        self._processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True, **streams)
        )

    def _listen_to(self, master: subprocess.Popen[str]) -> None:
        for line in master.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def _answer(self) -> dict[str, Any]:
        """The master's next line; `LoadTestError` with its reason, or when a process ended."""
        while True:
            try:
                line = self._lines.get(timeout=LOOK_S)
                break
            except queue.Empty:
                ended = [p.returncode for p in self._processes[1:] if p.poll() is not None]
                if ended:
                    raise LoadTestError(
                        f"a load generator of this host ended with {ended[0]}; see its messages above"
                    ) from None
        if line is None:
            raise LoadTestError("the load generator's master ended; see its messages above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoadTestError(answer["error"])
        return answer


def run(
    plan: Plan,
    *,
    url: str,
    admin_key_file: Path | None = None,
    repository: Path | None = None,
    progress: Progress = unreported,
) -> Run:
    """Carry out one plan against the server at `url` with the plan's own number of processes; see `Engine`."""
    endpoint = Endpoint(url=url, admin_key=None if admin_key_file is None else key_of(admin_key_file))
    with Engine(processes=plan.processes) as engine:
        return engine.run(plan, endpoint, repository=repository, progress=progress)
