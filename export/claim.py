"""Who publishes what under a version number: a claim lies beside the versions until its publication is finished."""

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from rfserve.export.errors import RepositoryError
from rfserve.export.manifest import Manifest

_under_way: set[str] = set()


@cache
def _place() -> str:
    """This boot of this machine, and in it the space of process ids; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot, empty when there is none: ids are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie has ended, though nobody has asked for its exit code yet.
    return "" if fields[0] == "Z" else fields[19]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`content` is the SHA-256 of what makes the version; the rest says which process publishes it."""

    content: str
    owner: str
    host: str = field(default_factory=socket.gethostname)
    place: str = field(default_factory=_place)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _started(os.getpid()))
    at_utc: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_json(self) -> str:
        """As the object holds it."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Claim":
        """From the object's text; `RepositoryError` when it is damaged."""
        try:
            return cls(**json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise RepositoryError(f"the claim {where} is damaged ({error}); retire that version to clear it") from error

    @property
    def is_held(self) -> bool:
        """Whether its publisher is at work for certain: only of processes beside this one can that be said."""
        if not self.place or self.place != _place():
            return False
        if self.pid == os.getpid() and self.started == _started(self.pid):
            return self.owner in _under_way
        return bool(self.started) and self.started == _started(self.pid)

    def describe(self) -> str:
        """Who holds it, as messages say it."""
        return f"process {self.pid} on {self.host} since {self.at_utc}"


@contextmanager
def publishing() -> Iterator[str]:
    """The name of one publication, held as long as the context lasts."""
    owner = uuid.uuid4().hex
    _under_way.add(owner)
    try:
        yield owner
    finally:
        _under_way.discard(owner)


def content_of(manifest: Manifest) -> str:
    """What makes two publications the same: the model, the hashes of the files, and the steps of an ensemble."""
    parts = [manifest.model, {name: dict(facts) for name, facts in manifest.files.items()}, list(manifest.steps)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
