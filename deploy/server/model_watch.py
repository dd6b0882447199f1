"""The watch over one model: canaries that are due, what they mean, and the mend when the model is dead."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rfserve.server.canary import Canary, Outcome, from_config
from rfserve.server.errors import ServerError
from rfserve.server.http_api import HttpApi
from rfserve.server.mending import mend
from rfserve.server.stub_watch import StubWatch
from rfserve.server.watch_record import WatchRecord

LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """How often and how patiently. `interval_s` is the time between two canaries of a model, `deadline_s` that of one.

    A model is hung after `strikes` canaries without an answer, while it answered nobody else either, or when its queue
    refuses them and nothing was executed for as long as that takes; it is given up when mending has not helped within
    `mend_limit_s`. A model whose canary is slow waits longer, up to 30 s, so that its canaries take no more than
    `share` of the time.
    """

    interval_s: float = 5.0
    deadline_s: float = 5.0
    strikes: int = 3
    mend_limit_s: float = 60.0
    share: float = 0.01

    def __post_init__(self) -> None:
        if min(self.interval_s, self.deadline_s, self.mend_limit_s, self.strikes) <= 0 or not 0 < self.share <= 1:
            raise ServerError(f"watchdog: got {self}; expected times and strikes above 0, and a share of at most 1")


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Triton's own of a model: requests answered, and batches executed, failed ones too; None when it does not say."""

    answered: int
    executed: int | None


class ModelWatch(threading.Thread):
    """A thread that watches one model until it is stopped. `give_up` is called when mending does not help."""

    def __init__(
        self,
        record: WatchRecord,
        *,
        http: HttpApi,
        stubs: StubWatch,
        options: WatchOptions,
        say: Callable[[str], None],
        give_up: Callable[[str], None],
    ) -> None:
        super().__init__(name=f"watch {record.model}", daemon=True)
        self.record = record
        self.groups: tuple[str, ...] = ()
        self._http, self._stubs, self._options, self._say, self._give_up = http, stubs, options, say, give_up
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._lost = ""
        self._strikes = 0
        self._config: dict[str, Any] | None = None
        self._canary: Canary | None = None
        self._fastest_s = 0.0
        # How much it had executed, and since when that has not changed.
        self._executed: tuple[int, float] | None = None

    def run(self) -> None:
        """Canaries as they are due, and a mend as soon as an instance is lost."""
        while not self._stopped.is_set():
            lost, self._lost = self._lost, ""
            try:
                if lost:
                    self._mend(lost, hung=False)
                else:
                    self._check()
            except Exception as error:  # a watch that ended would be missed by nobody
                self._say(f"{self.record.model}: cannot watch it: {error!r}")
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def stop(self) -> None:
        """Let the thread end after what it is doing now."""
        self._stopped.set()
        self._wake.set()

    def instance_lost(self, reason: str) -> None:
        """Mend now: an instance is known to be gone."""
        self.record.stubs_lost += 1
        self._lost = reason
        self._wake.set()

    def _pause_s(self) -> float:
        if self._strikes:
            return min(1.0, self._options.interval_s)
        return max(self._options.interval_s, min(self._fastest_s / self._options.share, LONGEST_PAUSE_S))

    def _check(self) -> None:
        config = self._http.config(self.record.model)
        if config is None:
            # Unloaded on purpose, or being swapped: nothing to watch.
            return
        if config != self._config:
            self._config, self._fastest_s = config, 0.0
            self._canary = from_config(config, self._options.deadline_s)
            self.groups = tuple(g["name"] for g in config.get("instance_group") or [])
        if self._canary is None:
            return
        counts = self._counts()
        began = time.monotonic()
        result = self._canary.send(self._http, self._options.deadline_s)
        outcome, reason = result.outcome, result.reason
        if outcome is Outcome.SILENT:
            others = self._counts().answered - result.answered - counts.answered
            if others > 0 or not self._http.model_ready(self.record.model):
                # It works for others, who came first; or it is not the model that is silent.
                outcome = Outcome.BUSY
        idle_s = self._idle_s(counts.executed)
        hung = result.kept_by_queue and idle_s >= self._options.strikes * self._options.deadline_s
        if hung:
            outcome, reason = Outcome.SILENT, f"{reason}; nothing was executed for {idle_s:.0f} s"
        record = self.record
        before = record.outcome
        record.canaries[outcome] += 1
        record.outcome, record.reason = outcome, reason
        if outcome is Outcome.OK:
            record.latency_s, record.last_success_s = result.latency_s, time.time()
            took = time.monotonic() - began
            self._fastest_s = min(self._fastest_s or took, took)
        if record.up:
            self._strikes = 0
            return
        if before is not outcome:
            self._say(f"{record.model}: canary {outcome}: {reason}")
        self._strikes += 1
        # An error of its own is a fault only of a model that could answer a canary before.
        if outcome is Outcome.FAILED and record.last_success_s is None:
            self._strikes = 0
        # Triton names a dead process at once; the second time it is no stall of a busy machine.
        if hung or self._strikes >= (2 if outcome is Outcome.DEAD else self._options.strikes):
            self._mend(f"canary {outcome}: {reason}", hung=outcome is Outcome.SILENT)

    def _counts(self) -> _Counts:
        found = self._http.call(f"/v2/models/{self.record.model}/stats").document
        stats = found.get("model_stats") if isinstance(found, dict) else None
        return _Counts(
            answered=sum(int(s.get("inference_stats", {}).get("success", {}).get("count", 0)) for s in stats or ()),
            executed=sum(int(s.get("execution_count", 0)) for s in stats) if stats else None,
        )

    def _idle_s(self, executed: int | None) -> float:
        """For how long Triton has counted no execution; 0 when it does not say."""
        now = time.monotonic()
        if executed is None:
            self._executed = None
            return 0.0
        if self._executed is None or self._executed[0] != executed:
            self._executed = (executed, now)
        return now - self._executed[1]

    def _mend(self, reason: str, *, hung: bool) -> None:
        record, limit_s = self.record, self._options.mend_limit_s
        record.outcome, record.reason = Outcome.DEAD, reason
        self._say(f"{record.model}: {reason}; unloading and loading it")
        began = time.monotonic()
        done, problem = mend(
            self._http,
            record.model,
            retire=lambda: self._stubs.retire(self.groups, stuck=hung),
            limit_s=limit_s,
            deadline_s=self._options.deadline_s,
        )
        # What was lost before the canary passed is replaced.
        # Triton counts anew: an equal number would pass for no execution since.
        self._strikes, self._lost, self._executed = 0, "", None
        self._stubs.refresh()
        if done:
            record.mends += 1
            record.outcome, record.reason, record.last_success_s = Outcome.OK, "", time.time()
            self._say(f"{record.model}: answers again after {time.monotonic() - began:.1f} s")
        elif not self._stopped.is_set():
            record.failed_mends += 1
            self._say(f"{record.model}: mending did not help within {limit_s:g} s: {problem}")
            self._give_up(f"{record.model} cannot be mended: {problem}")
