"""Whether a running server answers as a published version does: its answers against ONNX Runtime on this machine."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rfserve.export import local_model
from rfserve.export.elements import compare, not_finite
from rfserve.export.errors import GraphError, LiveServerError
from rfserve.export.live import READY_POLL_S, LiveServer
from rfserve.export.local_model import LocalModel
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.scaling import METRES_PER_DEGREE, Scaling, moved_home, network_units
from rfserve.export.spec import EnsembleSpec, ModelSpec, example
from rfserve.export.spec.model import Served
from rfserve.export.spec.queueing import REFUSAL_TEXTS
from rfserve.export.spec.tensor import Array

# Rows of the requests that are sent.
BATCHES = (1, 1, 3)
# A GPU rounds FP32 products to 10 bits (TF32): a multiple of the spec's tolerance. What then passes is still told by
# the version's number.
GPU_SLACK = 1_000
# Differences of the front end within its tolerance reach the network's outputs.
ENSEMBLE_SLACK = 10


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was compared: requests, rows in them, and the worst difference as a multiple of what is allowed."""

    requests: int
    rows: int
    worst_ratio: float


def checked_on(server: LiveServer, repository: ModelRepository, spec: Served, version: int) -> Checked:
    """Send spec examples to a server, without naming a version, and compare the answers with `version` run here.

    `LiveServerError` when an answer differs by more than the spec allows, names another version, or none comes;
    `GraphError` when what `version` answers here is not finite. For an ensemble, the steps run here in the versions
    that the server has ready.
    """
    return Conformance(repository, spec, version).check(server)


class Conformance:
    """A version's conformance set: spec examples, and what it answers to them here, for any number of servers.

    For a network that knows a single place, by its manifest's scaling, the examples are moved there: anywhere else its
    sigma is only the distance from it, whatever the weights.
    Safe to be used by several threads. The version runs here once, an ensemble once for each choice of its steps.
    """

    def __init__(self, repository: ModelRepository, spec: Served, version: int) -> None:
        self.spec, self.version = spec, version
        self._repository = repository
        self._references: dict[tuple[int, ...], _Reference] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Run the version now, unless its answers depend on what a server has; `GraphError` as of `checked_on`."""
        if not isinstance(self.spec, EnsembleSpec):
            self._run(())

    def check(self, server: LiveServer, *, pinned: bool = False, served_as: str | None = None) -> Checked:
        """Put the set to a server and compare; errors as of `checked_on`.

        With `pinned`, requests name the version, beside whatever else the server has. `served_as` is the name that the
        server has the version under.
        """
        ask = Asking(server=server, spec=self.spec, version=self.version if pinned else None, served_as=served_as)
        if not pinned:
            _wait_until_chosen(ask, self.version)
        reference = self._reference(server)
        slack = GPU_SLACK if server.target(served_as or reference.network.name) == "gpu" else 1
        worst = 0.0
        for inputs, expected in reference.cases:
            got, answered = ask(inputs)
            if answered != self.version:
                raise LiveServerError(
                    f"{server.url}: {self.spec.name} answered as version {answered}; expected {self.version}: did "
                    "someone else change what is served?"
                )
            for output in (t.name for t in self.spec.outputs):
                worst = max(worst, self._ratio(server, output, got, expected, reference.allowed(output, slack)))
        return Checked(requests=len(BATCHES), rows=sum(BATCHES), worst_ratio=worst)

    def _reference(self, server: LiveServer) -> "_Reference":
        steps = self.spec.steps if isinstance(self.spec, EnsembleSpec) else ()
        return self._run(tuple(max(server.served_versions(s.model.name), default=0) for s in steps))

    def _run(self, versions: tuple[int, ...]) -> "_Reference":
        with self._lock:
            if versions not in self._references:
                self._references[versions] = _Reference(self._repository, self.spec, self.version, versions)
            return self._references[versions]

    def _ratio(
        self,
        server: LiveServer,
        output: str,
        got: Mapping[str, Array],
        expected: Mapping[str, Array],
        tolerance: Array,
    ) -> float:
        difference, allowed, exceeded = compare(got[output], expected[output], tolerance)
        if exceeded:
            raise LiveServerError(
                f"{server.url}: {self.spec.name}/{self.version} answers {output} that differ by {difference:.3g} from "
                f"ONNX Runtime here, allowed {allowed:.3g}: does it serve this repository?"
            )
        return difference / allowed


class _Reference:
    """The version's answers here, and how exactly a server has to agree. `steps` are the versions of an ensemble's."""

    def __init__(self, repository: ModelRepository, spec: Served, version: int, steps: tuple[int, ...]) -> None:
        if isinstance(spec, EnsembleSpec):
            models = {s.model.name: LocalModel(repository, s.model, v) for s, v in zip(spec.steps, steps, strict=True)}
            self.network, slack = spec.steps[-1].model, ENSEMBLE_SLACK
        else:
            models = {spec.name: LocalModel(repository, spec, version)}
            self.network, slack = spec, 1
        manifest = models[self.network.name].manifest
        scaling = Scaling.from_dict(manifest.scaling or {})
        self._units = network_units(self.network, scaling)
        self._tolerance = spec.tolerance * slack
        self._rounding = _rounding(self.network, manifest, self._units)

        def outputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
            if isinstance(spec, EnsembleSpec):
                return local_model.ensemble_outputs(spec, inputs, lambda m, arrays: models[m.name].run(arrays))
            return models[spec.name].run(inputs)

        sent = [moved_home(scaling, example(spec, batch=batch, seed=seed)) for seed, batch in enumerate(BATCHES)]
        self.cases = [(inputs, outputs(inputs)) for inputs in sent]
        broken = sorted({name for _, expected in self.cases for name in not_finite(expected)})
        if broken:
            raise GraphError(
                f"{spec.name}/{version} answers {' and '.join(broken)} that are not finite to finite inputs, in ONNX "
                "Runtime here; publish a version of sound weights, and serve that one"
            )

    def allowed(self, output: str, slack: int) -> Array:
        tolerance = max(self._tolerance * slack, self._rounding)
        return np.asarray(tolerance * np.asarray(self._units.get(output, 1.0), np.float64))


def _rounding(network: ModelSpec, manifest: Manifest, units: Mapping[str, Array]) -> float:
    """What another processor's kernels may differ by, in network units: as far as the precision may move a fix."""
    limit = network.drift_limits.get(manifest.precision)
    return 0.0 if limit is None else limit.position_worst_m / (METRES_PER_DEGREE * float(np.max(units["positions"])))


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Asks a server for answers; a queue that is full now has room in a moment."""

    server: LiveServer
    spec: Served
    version: int | None
    served_as: str | None

    def __call__(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """The outputs for checked inputs, and the version that made them."""
        deadline = time.monotonic() + self.server.timeout_s
        while True:
            try:
                return self.server.infer(self.spec.name, inputs, self.version, self.served_as)
            except LiveServerError as error:
                if not any(t in str(error) for t in REFUSAL_TEXTS) or time.monotonic() > deadline:
                    raise
                time.sleep(READY_POLL_S)


def _wait_until_chosen(ask: Asking, version: int) -> None:
    """A version that goes still takes requests for some milliseconds after the new one is ready."""
    server, inputs = ask.server, example(ask.spec)
    deadline = time.monotonic() + server.timeout_s
    while True:
        answered = ask(inputs)[1]
        if answered == version:
            return
        if time.monotonic() > deadline:
            raise LiveServerError(
                f"{server.url}: {ask.spec.name} still answers as version {answered} after {server.timeout_s:g} s; "
                f"expected {version}: does it serve this repository, and this target?"
            )
        time.sleep(READY_POLL_S)
