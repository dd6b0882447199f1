"""A version on a pod before any client can meet it: sent to the pod, and served there under a name of its own.

What proves itself here are the pod's processor, its ONNX Runtime and its memory, with the version's own bytes. The
pod's copy of the repository proves itself when the version is loaded out of it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np

from rfserve.export.comparison import Comparison, Inputs
from rfserve.export.drift import Drift
from rfserve.export.errors import LiveServerError
from rfserve.export.live_check import Asking
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import ModelSpec
from rfserve.export.spec.model import Served
from rfserve.export.spec.tensor import Array
from rfserve.release.errors import PodError
from rfserve.release.placement import Placement
from rfserve.release.pod_server import PodServer

SUFFIX = ".rehearsal"
# One message of protobuf, less what else is in it.
LARGEST_BYTES = 2**31 - 2**20
# Rows of a request: within every model's queue limits.
SHADOW_ROWS = 4


class Rehearsal:
    """One version, read once, to be put on any number of pods."""

    def __init__(self, repository: ModelRepository, spec: Served, version: int) -> None:
        self.spec, self.version, self.name = spec, version, spec.name + SUFFIX
        self._repository = repository
        self._files: Mapping[str, bytes] | None = None
        self.size_bytes = repository.manifest(spec.name, version).size_bytes

    @property
    def impossible(self) -> str:
        """Why there can be none, empty when there can."""
        if not isinstance(self.spec, ModelSpec):
            return "an ensemble has no graph of its own"
        if self.size_bytes > LARGEST_BYTES:
            return f"{self.size_bytes / 1e9:.1f} GB do not fit into one message"
        return ""

    def read(self) -> None:
        """Take the version's files into memory, as all pods are sent the same."""
        if self._files is not None:
            return
        with self._repository.version_folder(self.spec.name, self.version) as folder:
            names = self._repository.manifest(self.spec.name, self.version).files
            self._files = {f"{self.version}/{name}": (folder / name).read_bytes() for name in names}

    @contextmanager
    def on(self, server: PodServer, placement: Placement) -> Iterator[None]:
        """The version is ready on a pod, under `name`, as long as the context lasts."""
        self.read()
        configured = placement.rehearsing(self._repository, self.spec, self.version, self.name)
        try:
            server.load(self.name, configured, self._files)
            server.wait_until_ready(self.name, self.version)
            yield
        except BaseException:
            # The reason is the error that is on its way; a pod that is gone has nothing to forget.
            with suppress(LiveServerError, ValueError):
                server.unload(self.name)
            raise
        server.unload(self.name)

    def shadow(self, server: PodServer, placement: Placement, inputs: Inputs) -> Comparison:
        """The same requests to what the pod serves and to the rehearsed version: how far fixes move. Call it `on` one.

        `PodError` when the pod serves no version, or another one meanwhile.
        """
        if not placement.versions:
            raise PodError(f"{server.pod.name}: serves no version of {self.spec.name} to compare with")
        served = max(placement.versions)
        before = self._answers(Asking(server=server, spec=self.spec, version=served, served_as=None), inputs)
        after = self._answers(Asking(server=server, spec=self.spec, version=self.version, served_as=self.name), inputs)
        manifest = self._repository.manifest
        return Comparison(
            before=manifest(self.spec.name, served),
            after=manifest(self.spec.name, self.version),
            inputs=inputs,
            drift=Drift.between(before, after),
        )

    def _answers(self, asking: Asking, inputs: Inputs) -> dict[str, Array]:
        parts = []
        for first in range(0, len(inputs.names), SHADOW_ROWS):
            part = {name: array[first : first + SHADOW_ROWS] for name, array in inputs.arrays.items()}
            self.spec.check(part)
            parts.append(asking(part)[0])
        return {t.name: np.concatenate([part[t.name] for part in parts]) for t in self.spec.outputs}
