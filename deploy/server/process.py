"""A tritonserver process: started, watched until every model is ready, and always stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from rfserve.server import binary, draining, guard, object_location, process_group, shared_memory, startup_log
from rfserve.server.errors import ModelLoadError, RepositoryError, ServerError, ServerStopped
from rfserve.server.held_folder import held_folder
from rfserve.server.http_api import HttpApi
from rfserve.server.lifetime import Lifetime
from rfserve.server.options import ServerOptions

__all__ = ["ServerOptions", "TritonServer"]

TETHER = Path(__file__).with_name("tether.py")
POLL_S = 0.1
UNSTARTED_EXIT_S = 5.0
LOG_LINES_SHOWN = 30


class TritonServer(Lifetime):
    """A context manager around one tritonserver. Entering returns when every model is ready to serve.

    tritonserver is told to end when the thread ends that started it, and a process of ours clears up when its launcher
    was killed, so that nothing is left. `folders` are the caller's that it removes then.
    """

    def __init__(self, options: ServerOptions, folders: Sequence[Path] = ()) -> None:
        self.options = options
        self._folders = tuple(folders)
        self._ending = False
        self.models = options.served_models()
        self._grpc, self._http, self._metrics = options.ports()
        self._cleanup = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = Path()
        self.unavailable: dict[str, str] = {}
        self.shared_memory_prefix = shared_memory.new_prefix()

    @property
    def grpc_url(self) -> str:
        """Host and port for gRPC clients."""
        return f"{self.options.address}:{self._grpc}"

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP endpoint; on loopback when gRPC has TLS."""
        return f"http://{self.options.plain_address}:{self._http}"

    @property
    def http(self) -> HttpApi:
        """Calls to the HTTP endpoint, with the administrator's key."""
        return HttpApi(url=self.http_url, admin_key=self.options.security.admin_key)

    @property
    def metrics_url(self) -> str:
        """URL that Prometheus scrapes; on loopback when gRPC has TLS."""
        return f"http://{self.options.metrics_address or self.options.plain_address}:{self._metrics}/metrics"

    @property
    def pid(self) -> int:
        """The process id of tritonserver; `ServerError` when it is not running."""
        return self._running().pid

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ServerError("the server is not running; start it first")
        return self._process

    def start(self) -> None:
        """Start and wait until every model's own ready endpoint says yes.

        `ModelLoadError` with Triton's reasons when one does not, `ServerStopped` when the process ends first; the
        process is stopped in both cases.
        """
        try:
            self._spawn()
            self._wait_until_ready()
        except BaseException:
            # There is nothing in flight, and one that waits for a dead object store does not heed SIGTERM.
            self._end(UNSTARTED_EXIT_S)
            raise

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the process to end by itself; its exit code, or None when it has not within `timeout_s`."""
        with suppress(subprocess.TimeoutExpired):
            return self._running().wait(timeout_s)
        return None

    def drained(self, patience_s: float) -> int:
        """Wait for the process to end after a SIGTERM; its exit code, 0 when all was answered. See `draining`."""
        return draining.wait_until_gone(self._running(), self.log, patience_s)

    def terminate(self) -> None:
        """Tell it to end: what is in flight is answered, and a `start` that still waits fails. Safe in a signal
        handler.
        """
        self._ending = True
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Forward a signal to tritonserver; nothing happens when it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> int | None:
        """Stop tritonserver and everything it started; its exit code, or None when it never ran."""
        return self._end(self._patience_s)

    @property
    def _patience_s(self) -> float:
        return self.options.exit_timeout_s + 10.0

    def _end(self, patience_s: float) -> int | None:
        process = self._process
        code = None
        try:
            if process is not None:
                self.send_signal(signal.SIGTERM)
                code = self.drained(patience_s)
        finally:
            # Also when a second Ctrl-C interrupts it.
            if process is not None:
                # The stubs are in its process group, and one that lost its server would linger.
                draining.end_group(process.pid)
                process.wait()
            self._process, self._ending = None, False
            self._cleanup.close()
        return code

    def kill(self) -> None:
        """End tritonserver and everything it started at once, whatever is in flight; `stop` then clears up."""
        if self._process is not None:
            draining.end_group(self._process.pid)

    def log(self) -> str:
        """What tritonserver has written so far; empty once a log of its own has been cleared away."""
        return self._log_path.read_text(errors="replace") if self._log_path.is_file() else ""

    def memory_bytes(self) -> int:
        """Resident memory of tritonserver and its stubs, shared pages counted once (proportional set size)."""
        return sum(process_group.resident_bytes(self.pid).values())

    def _spawn(self) -> None:
        folder = self._cleanup.enter_context(held_folder("rfserve-"))
        self._cleanup.callback(shared_memory.remove, self.shared_memory_prefix)
        found = binary.find(folder / "backends")
        self._log_path = self.options.log_file or folder / "tritonserver.log"
        log: IO[bytes] = self._cleanup.enter_context(self._log_path.open("wb"))
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-S",
                str(TETHER),
                str(os.getpid()),
                str(found.path),
                *found.arguments,
                *self.options.arguments(
                    models=self.models,
                    ports=(self._grpc, self._http, self._metrics),
                    shared_memory_prefix=self.shared_memory_prefix,
                ),
            ],
            env=found.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._cleanup.enter_context(
            guard.guarding(
                self._process.pid,
                patience_s=self._patience_s,
                prefix=self.shared_memory_prefix,
                folders=(folder, *self._folders),
                log=log,
            )
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.options.load_timeout_s
        waiting = list(self.models)
        while waiting or not self.models:
            if self._ending:
                raise ServerError("the server was told to end while its models were loading")
            code = None if self._process is None else self._process.poll()
            if code is not None:
                raise ServerStopped(
                    f"tritonserver ended with exit code {code} before it was ready:\n{self._last_lines()}"
                )
            if self.http.server_live():
                if not self.models:
                    waiting = list(self._found())
                waiting = [m for m in waiting if not self.http.model_ready(m)]
                failed = self._failures(waiting)
                if failed and not (self.options.allow_partial and len(failed) < len(self.models)):
                    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
                    raise ModelLoadError(f"{len(failed)} of {len(self.models)} models did not load: {reasons}")
                if failed:
                    self.unavailable = failed
                    return
            elif self.options.is_object_store:
                self._refuse_unopened()
            if (waiting or not self.models) and time.monotonic() > deadline:
                raise ModelLoadError(
                    f"{', '.join(waiting) or self.options.repository} not ready after "
                    f"{self.options.load_timeout_s:g} s{self._silence()}; give a longer --load-timeout-s, or see the "
                    f"log:\n{self._last_lines()}"
                )
            if waiting or not self.models:
                time.sleep(POLL_S)

    def _found(self) -> tuple[str, ...]:
        """The models that tritonserver found in an object store, but those without a version."""
        index = self.http.repository_index()
        failures = startup_log.model_failures(self.log())
        failed = {name for name, reason in failures.items() if not startup_log.is_unpublished(reason)}
        self.models = tuple(sorted({str(e["name"]) for e in index if e.get("state")} | failed))
        if not self.models:
            raise RepositoryError(
                f"{self.options.repository} holds no model with a version; write one with `rfserve-export write MODEL`"
            )
        return self.models

    def _refuse_unopened(self) -> None:
        reason = startup_log.startup_failure(self.log())
        if reason:
            raise RepositoryError(
                f"tritonserver cannot open {self.options.location}: {reason}; see that the bucket and something under "
                "the prefix are there, and that the AWS_* variables or the profile permit to read them"
            )

    def _silence(self) -> str:
        """What is known of an endpoint that tritonserver asks again and again, without a word in its log."""
        address = object_location.endpoint_address(self.options.location) if self.options.is_object_store else None
        if address is None:
            return ""
        try:
            socket.create_connection(address, timeout=2).close()
        except OSError as error:
            return f": nothing answers at {address[0]}:{address[1]} ({error})"
        return f": {address[0]}:{address[1]} takes connections"

    def _failures(self, models: list[str]) -> dict[str, str]:
        """Why models did not load, by name: the endpoints open when every model has loaded or failed."""
        if not models:
            return {}
        # The index has no reason, nor even a state, for a model that Triton did not get as far as loading.
        found = startup_log.model_failures(self.log())
        for entry in self.http.repository_index():
            if entry.get("state") == "UNAVAILABLE" and entry.get("reason"):
                found[entry["name"]] = entry["reason"]
        return {name: found[name] for name in models if name in found}

    def _last_lines(self) -> str:
        return "\n".join(self.log().splitlines()[-LOG_LINES_SHOWN:])
