"""One pod's server, which has so long for each step of a release and no longer."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rfserve.export.errors import LiveServerError
from rfserve.export.live import Encryption, LiveServer
from rfserve.release.errors import PodError
from rfserve.release.pods import Pod


class PodServer(LiveServer):
    """A `LiveServer` whose calls together end within the time-out, counted from when it was opened."""

    def __init__(self, pod: Pod, timeout_s: float, admin_key: str | None, encryption: Encryption) -> None:
        super().__init__(pod.address, timeout_s, admin_key, encryption)
        self.pod = pod
        self._allowed_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self.is_closed = False

    @property
    def left_s(self) -> float:
        """What is left of its time, in seconds."""
        return self._deadline - time.monotonic()

    def close(self) -> None:
        """Close the connection, and end what is asked over it."""
        self.is_closed = True
        super().close()

    def _call(self, what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        left_s = self.left_s
        if left_s <= 0:
            raise LiveServerError(
                f"{self.url}: took longer than the {self._allowed_s:g} s that a pod has; it was about to {what}"
            )
        self.timeout_s = left_s
        return super()._call(what, function, *arguments, **options)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How pods are reached: the seconds that each has for each step, the administrator's key, and TLS."""

    timeout_s: float = 120.0
    admin_key: str | None = field(default=None, repr=False)
    encryption: Encryption = field(default_factory=Encryption)
    _open: set[PodServer] = field(default_factory=set, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @contextmanager
    def open(self, pod: Pod) -> Iterator[PodServer]:
        """A connection for one step; what goes wrong meanwhile is a `PodError` that names the pod."""
        interrupted = False
        try:
            server = PodServer(pod, self.timeout_s, self.admin_key, self.encryption)
            with self._lock:
                self._open.add(server)
            try:
                yield server
            finally:
                interrupted = server.is_closed
                with self._lock:
                    self._open.discard(server)
                server.close()
        except PodError:
            raise
        except LiveServerError as error:
            raise PodError(str(error) if pod.name == pod.address else f"{pod.name}: {error}") from error
        except ValueError as error:
            # What gRPC says of a call on a closed channel.
            if not interrupted:
                raise
            raise PodError(f"{pod.name}: interrupted") from error

    def interrupt(self) -> None:
        """End every call that is under way, so that nobody waits for it."""
        with self._lock:
            servers = list(self._open)
        for server in servers:
            server.close()
