"""The watchdog of one tritonserver: is it alive, does every model answer, and mending or giving up when not.

Triton says live and ready for a model whose process is dead, so only inferences count. An ensemble has no process of
its own: canaries of its steps cover it, and one of its own would run each of them twice.
"""

import threading
import time
from collections.abc import Callable, Mapping

from rfserve.server import stub_watch
from rfserve.server.canary import ensemble_steps
from rfserve.server.http_api import HttpApi
from rfserve.server.model_watch import ModelWatch, WatchOptions
from rfserve.server.stub_watch import StubWatch
from rfserve.server.watch_record import WatchRecord

TICK_S = 0.5


class Watchdog:
    """Threads that watch the server with process id `leader` behind `http`.

    `say` takes a line for each event; `give_up` takes a reason and whether the server itself is dead, and has to end
    it.
    """

    def __init__(
        self,
        leader: int,
        http: HttpApi,
        options: WatchOptions,
        *,
        say: Callable[[str], None],
        give_up: Callable[[str, bool], None],
    ) -> None:
        self._http, self._options, self._say, self._give_up = http, options, say, give_up
        self._stubs = StubWatch(leader)
        self._watches: dict[str, ModelWatch] = {}
        self._ensembles: dict[str, tuple[str, ...]] = {}
        self._strikes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._stubs.refresh()
        self._thread.start()

    def stop(self) -> None:
        """End; canaries and mends under way come to nothing. Safe in a signal handler."""
        self._stopped.set()
        for watch in list(self._watches.values()):
            watch.stop()

    @property
    def records(self) -> Mapping[str, WatchRecord]:
        """What is known of each watched model."""
        return {name: watch.record for name, watch in sorted(self._watches.items())}

    def up(self) -> Mapping[str, bool]:
        """Whether each watched model, and each ensemble by its steps, answers; without those not yet asked."""
        found = {name: record.up for name, record in self.records.items() if record.outcome is not None}
        known = {e: steps for e, steps in self._ensembles.items() if set(steps) <= set(found)}
        return found | {e: all(found[s] for s in steps) for e, steps in known.items()}

    def _run(self) -> None:
        due = 0.0
        while not self._stopped.is_set():
            try:
                if time.monotonic() >= due:
                    self._look_at_server()
                    due = time.monotonic() + (1.0 if self._strikes else self._options.interval_s)
                self._look_at_stubs()
            except Exception as error:  # a watchdog that ended would be missed by nobody
                self._say(f"cannot watch: {error!r}")
            self._stopped.wait(TICK_S)
        while self._stubs.end_retired():
            time.sleep(TICK_S)

    def _look_at_server(self) -> None:
        live = self._http.call("/v2/health/live", timeout_s=self._options.deadline_s).ok
        self._strikes = 0 if live else self._strikes + 1
        if live:
            self._stubs.refresh()
            self._watch_new_models()
        elif self._strikes >= self._options.strikes and not self._stopped.is_set():
            self._stopped.set()
            self._give_up(f"tritonserver did not answer {self._strikes} times", True)

    def _look_at_stubs(self) -> None:
        groups = {g: name for name, watch in self._watches.items() for g in watch.groups}
        for stub in self._stubs.look():
            model = stub_watch.owner(stub, groups)
            if model is not None and not self._stopped.is_set():
                self._watches[model].instance_lost(f"stub {stub.instance} (process {stub.pid}) died or stands still")

    def _watch_new_models(self) -> None:
        for model in sorted({name for name, _ in self._http.served_versions() or ()} - self._watches.keys()):
            steps = ensemble_steps(self._http.config(model) or {})
            if steps:
                self._ensembles[model] = steps
                continue
            watch = ModelWatch(
                WatchRecord(model=model),
                http=self._http,
                stubs=self._stubs,
                options=self._options,
                say=self._say,
                give_up=lambda reason: self._give_up(reason, False),
            )
            self._watches[model] = watch
            watch.start()
