"""Whether a running server answers as a published version does: its answers against ONNX Runtime on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rfserve.export import local_model
from rfserve.export.elements import compare
from rfserve.export.errors import LiveServerError
from rfserve.export.live import READY_POLL_S, LiveServer
from rfserve.export.local_model import LocalModel
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.publication import network_units
from rfserve.export.scaling import METRES_PER_DEGREE, Scaling
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

    `LiveServerError` when an answer differs by more than the spec allows, names another version, or none comes. For an
    ensemble, the steps run here in the versions that the server has ready.
    """
    _wait_until_chosen(server, spec, version)
    reference = _Reference(server, repository, spec, version)
    worst = 0.0
    for seed, batch in enumerate(BATCHES):
        inputs = example(spec, batch=batch, seed=seed)
        expected = reference.outputs(inputs)
        got, answered = _ask(server, spec, inputs)
        if answered != version:
            raise LiveServerError(
                f"{server.url}: {spec.name} answered as version {answered}; expected {version}: did someone else "
                "change what is served?"
            )
        worst = max(worst, *(_ratio(server, reference, t.name, got, expected) for t in spec.outputs))
    return Checked(requests=len(BATCHES), rows=sum(BATCHES), worst_ratio=worst)


class _Reference:
    """The version as it runs here, and how exactly the server has to agree."""

    def __init__(self, server: LiveServer, repository: ModelRepository, spec: Served, version: int) -> None:
        self.spec, self.version = spec, version
        if isinstance(spec, ModelSpec):
            self._models = {spec.name: LocalModel(repository, spec, version)}
            network, slack = spec, 1
        else:
            self._models = {
                s.model.name: LocalModel(repository, s.model, max(server.served_versions(s.model.name), default=0))
                for s in spec.steps
            }
            network, slack = spec.steps[-1].model, ENSEMBLE_SLACK
        if server.target(network.name) == "gpu":
            slack *= GPU_SLACK
        manifest = self._models[network.name].manifest
        self._units = _units(network, manifest)
        self._tolerance = max(spec.tolerance * slack, _rounding(network, manifest, self._units))

    def outputs(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if isinstance(self.spec, EnsembleSpec):
            return local_model.ensemble_outputs(self.spec, inputs, lambda m, arrays: self._models[m.name].run(arrays))
        return self._models[self.spec.name].run(inputs)

    def allowed(self, output: str) -> Array:
        return np.asarray(self._tolerance * np.asarray(self._units.get(output, 1.0), np.float64))


def _units(network: ModelSpec, manifest: Manifest) -> Mapping[str, Array]:
    return network_units(network, Scaling.from_dict(manifest.scaling or {}))


def _rounding(network: ModelSpec, manifest: Manifest, units: Mapping[str, Array]) -> float:
    """What another processor's kernels may differ by, in network units: as far as the precision may move a fix."""
    limit = network.drift_limits.get(manifest.precision)
    return 0.0 if limit is None else limit.position_worst_m / (METRES_PER_DEGREE * float(np.max(units["positions"])))


def _ratio(
    server: LiveServer, reference: _Reference, output: str, got: Mapping[str, Array], expected: Mapping[str, Array]
) -> float:
    difference, allowed, exceeded = compare(got[output], expected[output], reference.allowed(output))
    if exceeded:
        raise LiveServerError(
            f"{server.url}: {reference.spec.name}/{reference.version} answers {output} that differ by {difference:.3g} "
            f"from ONNX Runtime here, allowed {allowed:.3g}: does it serve this repository?"
        )
    return difference / allowed


def _wait_until_chosen(server: LiveServer, spec: Served, version: int) -> None:
    """A version that goes still takes requests for some milliseconds after the new one is ready."""
    deadline = time.monotonic() + server.timeout_s
    inputs = example(spec)
    while True:
        answered = _ask(server, spec, inputs)[1]
        if answered == version:
            return
        if time.monotonic() > deadline:
            raise LiveServerError(
                f"{server.url}: {spec.name} still answers as version {answered} after {server.timeout_s:g} s; expected "
                f"{version}: does it serve this repository, and this target?"
            )
        time.sleep(READY_POLL_S)


def _ask(server: LiveServer, spec: Served, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
    """An answer; a queue that is full now has room in a moment."""
    deadline = time.monotonic() + server.timeout_s
    while True:
        try:
            return server.infer(spec.name, inputs)
        except LiveServerError as error:
            if not any(t in str(error) for t in REFUSAL_TEXTS) or time.monotonic() > deadline:
                raise
            time.sleep(READY_POLL_S)
