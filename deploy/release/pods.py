"""The pods that a release is for: as they were named, or as the cluster has them at each look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rfserve.export.errors import ReleaseError


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One tritonserver: `name` for people, `address` (host:port) of its gRPC."""

    name: str
    address: str

    def __str__(self) -> str:
        return self.address if self.name == self.address else f"{self.name} ({self.address})"


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """The pods at one look: those that take requests, and those that are about to. Pods that end are in neither."""

    ready: tuple[Pod, ...]
    starting: tuple[Pod, ...] = ()

    def has(self, pod: Pod) -> bool:
        """Whether a pod was there, ready or not."""
        return pod in self.ready or pod in self.starting


class Fleet(Protocol):
    """Where pods are found."""

    def look(self) -> Sighting:
        """The pods that are there now; `ReleaseError` when that cannot be said."""


class NamedPods:
    """The pods of `--pods`: always the same, and each one counts."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """`ReleaseError` when there is none, or one is named twice."""
        if not addresses or len(set(addresses)) != len(addresses):
            raise ReleaseError(f"pods: got {', '.join(addresses) or 'none'}; expected each pod's HOST:PORT, once")
        self._pods = tuple(Pod(name=a, address=a) for a in addresses)

    def look(self) -> Sighting:
        """The pods, as they were named."""
        return Sighting(ready=self._pods)
