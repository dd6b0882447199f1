"""Two versions of a network on the same inputs: how far positions move, and how much standard deviations change."""

import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from rfserve.export import local_model
from rfserve.export.drift import OUTPUTS, Drift
from rfserve.export.errors import ExportError, VersionNotFound
from rfserve.export.local_model import LocalModel
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.scaling import Scaling, moved_home
from rfserve.export.spec import ENSEMBLES, EnsembleSpec, ModelSpec, example
from rfserve.export.spec.model import Served
from rfserve.export.spec.tensor import Array

EXAMPLES = 32
# A recording of minutes is read and hashed whole.
TENSORS_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The network's input tensors, a name for each row, and where they are from."""

    arrays: Mapping[str, Array]
    names: tuple[str, ...]
    origin: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two versions of a network, what they were run on, and the drift from the first to the second."""

    before: Manifest
    after: Manifest
    inputs: Inputs
    drift: Drift

    def text(self) -> str:
        """A line for each event, and a summary."""
        drift, width = self.drift, max(len(name) for name in ("event", *self.inputs.names))
        lines = [f"{self.before.model}: {_said(self.before)} -> {_said(self.after)}, on {self.inputs.origin}", ""]
        lines.append(f"{'event':{width}}  {'shift m':>12}  {'sigma north %':>13}  {'sigma east %':>13}")
        for row, shift_m, (north, east) in zip(drift.rows, drift.position_m, drift.sigma_percent, strict=True):
            lines.append(f"{self.inputs.names[row]:{width}}  {shift_m:12.2f}  {north:+13.3f}  {east:+13.3f}")
        left_out = len(self.inputs.names) - len(drift.rows)
        lines += [
            "",
            f"position  p50 {drift.position_p50_m:.2f} m, p99 {drift.position_p99_m:.2f} m, "
            f"worst {drift.position_worst_m:.2f} m",
            f"sigma     p50 {drift.sigma_p50_percent:.3f} %, p99 {drift.sigma_p99_percent:.3f} %, "
            f"worst {drift.sigma_worst_percent:.3f} %",
        ]
        if left_out:
            lines.append(f"{left_out} of {len(self.inputs.names)} events are no fix in either version")
        return "\n".join(lines)


def compare(
    repository: ModelRepository,
    spec: Served,
    before: int,
    after: int,
    *,
    inputs: Path | None = None,
    recordings: Sequence[Path] = (),
) -> Comparison:
    """Run two versions in ONNX Runtime on the inputs of an .npz, on SigMF recordings, or on the spec's examples.

    Recordings go through the repository's front end in the version that the CPU serves. `ExportError` when the model
    gives no positions, a version is not published, or the inputs cannot be read or located.
    """
    network = network_of(spec)
    models = [LocalModel(repository, network, _published(repository, network, version)) for version in (before, after)]
    given = inputs_of(repository, network, after, inputs=inputs, recordings=recordings)
    reference, other = (model.run(given.arrays) for model in models)
    return Comparison(
        before=models[0].manifest, after=models[1].manifest, inputs=given, drift=Drift.between(reference, other)
    )


def network_of(spec: Served) -> ModelSpec:
    """The spec, when its versions give positions of their own; `ExportError` otherwise."""
    if not isinstance(spec, ModelSpec) or {t.name for t in spec.outputs} != set(OUTPUTS):
        networks = sorted({e.steps[-1].model.name for e in ENSEMBLES.values()})
        raise ExportError(f"{spec.name} has no versions with positions of their own; compare {', '.join(networks)}")
    return spec


def inputs_of(
    repository: ModelRepository,
    spec: ModelSpec,
    version: int,
    *,
    inputs: Path | None = None,
    recordings: Sequence[Path] = (),
) -> Inputs:
    """A network's tensors: of recordings, through the repository's front end, of an .npz, or of the spec's examples.

    Those of the spec lie where `version` was trained, if it knows a single place: anywhere else its sigma is only the
    distance from it.
    """
    if recordings:
        return _from_recordings(repository, spec, recordings)
    if inputs is not None:
        return _from_file(spec, inputs)
    return _examples(spec, Scaling.from_dict(repository.manifest(spec.name, version).scaling or {}))


def _published(repository: ModelRepository, spec: ModelSpec, version: int) -> int:
    published = repository.versions(spec.name)
    if version not in published:
        raise VersionNotFound(
            f"{spec.name}/{version} is not published in {repository.location}; it has {published or 'no version'}"
        )
    return version


def _examples(spec: ModelSpec, scaling: Scaling) -> Inputs:
    return Inputs(
        arrays=moved_home(scaling, example(spec, batch=EXAMPLES)),
        names=tuple(f"example {i}" for i in range(EXAMPLES)),
        origin=f"{EXAMPLES} random examples of the spec; give --recordings for what it means to real events",
    )


def _from_file(spec: ModelSpec, file: Path) -> Inputs:
    arrays = _read(file)
    wanted = {t.name for t in spec.inputs}
    rows = {len(a) if a.ndim else 0 for a in arrays.values()}
    if set(arrays) != wanted or len(rows) != 1 or rows == {0}:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ExportError(
            f"{file} holds {shapes}; expected {', '.join(sorted(wanted))} with the same rows, batch first"
        )
    count = rows.pop()
    return Inputs(
        arrays={name: arrays[name] for name in wanted},
        names=tuple(f"row {i}" for i in range(count)),
        origin=f"{_counted(count, 'row')} of {file.name}",
    )


def _read(file: Path) -> dict[str, Array]:
    try:
        # NumPy leaves a file open that it cannot read, if it opened it itself.
        with file.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ExportError(f"cannot read {file}: {error}; expected an .npz with one array for each input") from error


def _from_recordings(repository: ModelRepository, spec: ModelSpec, recordings: Sequence[Path]) -> Inputs:
    ensemble = next(e for e in ENSEMBLES.values() if any(s.model.name == spec.name for s in e.steps))
    with tempfile.TemporaryDirectory(prefix="rfserve-") as folder:
        file = Path(folder) / "tensors.npz"
        names = _client_tensors(ensemble, recordings, file)
        raw = _read(file)
    front: dict[str, LocalModel] = {}

    def run(model: ModelSpec, arrays: dict[str, Array]) -> Mapping[str, Array]:
        if model.name not in front:
            front[model.name] = LocalModel(repository, model, _served(repository, model))
        return front[model.name].run(arrays)

    arrays = local_model.step_inputs(ensemble, spec, raw, run)
    through = ", ".join(f"{name} version {model.version}" for name, model in front.items())
    return Inputs(arrays=arrays, names=names, origin=f"{_counted(len(names), 'recorded event')} through {through}")


def _served(repository: ModelRepository, model: ModelSpec) -> int:
    version = repository.serving(model.name).served("cpu", repository.precisions(model.name))
    if version is None:
        raise VersionNotFound(
            f"{repository.location} has no {model.name} to take recordings through: `rfserve-export write {model.name}`"
        )
    return version


def _client_tensors(ensemble: EnsembleSpec, recordings: Sequence[Path], file: Path) -> tuple[str, ...]:
    """Have the client read, align and pad the recordings, as it does to locate them; the names of the rows."""
    command = [*_client(), "tensors", *map(str, recordings), "--model", ensemble.name, "--output", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TENSORS_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        if "ModuleNotFoundError" in done.stderr or "No module named" in done.stderr:
            missing = done.stderr.strip().splitlines()[-1]
            raise ExportError(
                f"recordings are read by the client, which is not installed whole ({missing}): install "
                "rfserve[clients], or give --inputs"
            )
        said = done.stderr.strip().removeprefix("error: ") or f"exit code {done.returncode}"
        raise ExportError(f"the client cannot make tensors of the recordings: {said}")
    return tuple(done.stdout.splitlines())


def _client() -> list[str]:
    script = Path(sys.executable).with_name("rfserve-client")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "rfserve.clients.cli"]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _said(manifest: Manifest) -> str:
    return f"version {manifest.version} ({manifest.precision}, {manifest.weights})"
