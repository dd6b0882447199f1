"""Published versions in ONNX Runtime on this machine: alone, and through the steps of an ensemble."""

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime

from rfserve.export import onnx_file
from rfserve.export.manifest import GRAPH_FILE
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import EnsembleSpec, ModelSpec
from rfserve.export.spec.tensor import Array

Run = Callable[[ModelSpec, dict[str, Array]], Mapping[str, Array]]


class LocalModel:
    """One version of a model, held in memory; `VersionNotFound` or `GraphError` when it cannot be."""

    def __init__(self, repository: ModelRepository, spec: ModelSpec, version: int) -> None:
        self.spec, self.version = spec, version
        self.manifest = repository.manifest(spec.name, version)
        with repository.version_folder(spec.name, version) as folder:
            self._session: onnxruntime.InferenceSession = onnx_file.open_session(folder / GRAPH_FILE)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for any number of rows; `TensorError` when the inputs do not fit the spec."""
        rows = max(len(array) for array in inputs.values()) if inputs else 0
        size = self.spec.max_batch_size
        parts = []
        for first in range(0, max(rows, 1), size):
            part = {name: array[first : first + size] for name, array in inputs.items()}
            self.spec.check(part)
            parts.append(onnx_file.run_session(self._session, part))
        return {t.name: np.concatenate([part[t.name] for part in parts]) for t in self.spec.outputs}


def step_inputs(ensemble: EnsembleSpec, model: ModelSpec, inputs: Mapping[str, Array], run: Run) -> dict[str, Array]:
    """What `model` is given as a step of an ensemble, by its own tensor names, after the steps before it have run."""
    tensors = dict(inputs)
    for step in ensemble.steps:
        own = {name: tensors[outer] for name, outer in step.input_map.items()}
        if step.model.name == model.name:
            return own
        outputs = run(step.model, own)
        tensors |= {outer: outputs[name] for name, outer in step.output_map.items()}
    raise ValueError(f"{ensemble.name} does not run {model.name}")


def ensemble_outputs(ensemble: EnsembleSpec, inputs: Mapping[str, Array], run: Run) -> dict[str, Array]:
    """The outputs of an ensemble whose steps `run` runs."""
    last = ensemble.steps[-1]
    outputs = run(last.model, step_inputs(ensemble, last.model, inputs, run))
    return {outer: outputs[name] for name, outer in last.output_map.items()}
