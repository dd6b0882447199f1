"""A tritonserver together with what watches it and shows how it is: what `rfserve-server run` runs."""

import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from rfserve.server.held_folder import held_folder
from rfserve.server.lifetime import Lifetime
from rfserve.server.metrics_endpoint import MetricsEndpoint
from rfserve.server.model_watch import WatchOptions
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer
from rfserve.server.request_latency import RequestLatency
from rfserve.server.trace_export import TraceExport
from rfserve.server.watchdog import Watchdog

LOOPBACK = "127.0.0.1"
# Often enough that the files stay small, whether or not somebody scrapes.
COLLECT_S = 5.0
# A server that is given up gets this long to answer what it can.
GIVEN_UP_EXIT_S = 3.0
WAIT_STEP_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """The server's options, how it is watched (None: not at all), and where its spans go.

    Triton traces either to a collector or to files, of which the latency histograms are made: never both.
    """

    server: ServerOptions
    watch: WatchOptions | None = field(default_factory=WatchOptions)
    trace: TraceExport | None = None


class Service(Lifetime):
    """A context manager. Entering returns when the models are ready to serve; leaving drains and stops it all.

    Without prometheus_client the metrics port is Triton's own, and `notes` says so.
    """

    def __init__(self, options: ServiceOptions) -> None:
        self.options = options
        self.notes: list[str] = []
        self.given_up = ""
        self._cleanup = ExitStack()
        self._endpoint: MetricsEndpoint | None = None
        self._latency: RequestLatency | None = None
        self.watchdog: Watchdog | None = None
        self._stopping = threading.Event()
        server = options.server
        arguments: tuple[str, ...] = options.trace.arguments() if options.trace else ()
        folders: tuple[Path, ...] = ()
        if find_spec("prometheus_client") is None:
            self.notes.append("the metrics are Triton's alone: prometheus_client is not installed")
        else:
            self._endpoint = MetricsEndpoint(server.plain_address, server.metrics_port)
            self._cleanup.callback(self._endpoint.stop)
            server = replace(server, metrics_port=0, metrics_address=LOOPBACK)
            if options.trace is None:
                folders = (self._cleanup.enter_context(held_folder("rfserve-traces-")),)
                self._latency = RequestLatency(folders[0])
                arguments = self._latency.arguments()
        try:
            self.server = TritonServer(replace(server, extra_arguments=(*arguments, *server.extra_arguments)), folders)
        except BaseException:
            self._cleanup.close()
            raise

    @property
    def metrics_url(self) -> str:
        """URL that Prometheus scrapes."""
        return self._endpoint.url if self._endpoint else self.server.metrics_url

    def start(self) -> None:
        """As `TritonServer.start`; then the watch begins."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        if self._stopping.is_set() and self.watchdog is not None:
            # `terminate` came before there was one to stop.
            self.watchdog.stop()

    def _start(self) -> None:
        started_s = time.time()
        self.server.start()
        http, pid = self.server.http, self.server.pid
        if self.options.watch is not None:
            self.watchdog = Watchdog(pid, http, self.options.watch, say=_say, give_up=self._give_up)
            self.watchdog.start()
        if self._endpoint is not None:
            # Only here: prometheus_client may be missing where the endpoint is not ours.
            from rfserve.server.own_metrics import OwnMetrics  # noqa: PLC0415

            own = OwnMetrics(http=http, leader=pid, started_s=started_s, watchdog=self.watchdog, latency=self._latency)
            self._endpoint.start(self.server.metrics_url, own.text)
        if self._latency is not None:
            threading.Thread(target=self._collect, args=(self._latency,), name="latencies", daemon=True).start()

    def wait(self) -> int:
        """Wait until tritonserver has ended, by itself or after `terminate`; its exit code, 1 when it was given up."""
        while True:
            code = self.server.wait(WAIT_STEP_S)
            if code is None and self._stopping.is_set():
                patience_s = GIVEN_UP_EXIT_S if self.given_up else self.server.options.exit_timeout_s + 10.0
                code = self.server.drained(patience_s)
            if code is not None:
                return 1 if self.given_up else code

    def terminate(self) -> None:
        """Begin to drain: what is in flight is answered, what comes later is refused. The second time, end at once.

        Safe in a signal handler; `wait` returns when it is done. While the models load, `start` fails.
        """
        again = self._stopping.is_set()
        self._stopping.set()
        if self.watchdog is not None:
            self.watchdog.stop()
        if again:
            self.server.kill()
        else:
            self.server.terminate()

    def stop(self) -> int | None:
        """Stop everything; tritonserver's exit code, or None when it never ran."""
        self._stopping.set()
        if self.watchdog is not None:
            self.watchdog.stop()
        try:
            return self.server.stop()
        finally:
            self._cleanup.close()

    def _give_up(self, reason: str, server_is_dead: bool) -> None:
        if self._stopping.is_set():
            return
        self.given_up = reason
        _say(f"{reason}; ending the server, so that a supervisor starts it anew")
        if server_is_dead:
            self.server.kill()
        else:
            self.terminate()

    def _collect(self, latency: RequestLatency) -> None:
        while not self._stopping.wait(COLLECT_S):
            latency.collect(self.server.http)


def _say(line: str) -> None:
    print(f"watchdog: {line}", file=sys.stderr, flush=True)
