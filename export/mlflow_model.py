"""A published version as the folder that MLflow calls a model: its signature, how to load it, and its exact files."""

from pathlib import Path
from typing import Any

import onnx

from rfserve.export.manifest import FILE_NAME, GRAPH_FILE, Manifest
from rfserve.export.spec.model import Served
from rfserve.export.spec.tensor import TensorSpec

# What loads and runs the graph, at the versions it was verified with.
REQUIRED_TOOLS = ("onnx", "onnxruntime-gpu", "numpy")


def signature(spec: Served) -> Any:
    """The `mlflow.models.ModelSignature` that the spec declares: names, dtypes, shapes with -1 for dynamic axes."""
    from mlflow.models import ModelSignature

    return ModelSignature(inputs=_schema(spec.inputs), outputs=_schema(spec.outputs))


def pip_requirements(manifest: Manifest) -> list[str]:
    """The packages that run the version's graph, pinned to what its manifest says."""
    return [f"{tool}=={manifest.tools[tool]}" for tool in REQUIRED_TOOLS if tool in manifest.tools]


def save(spec: Served, manifest: Manifest, version_folder: Path, target: Path, **identity: str) -> None:
    """Write the MLflow model into `target`, a folder that does not exist yet.

    The version's files are linked, not copied or written anew: what is uploaded from `target` are the bytes that the
    manifest has the SHA-256 of, and a large graph never enters memory. `identity` are MLflow's own ids of the model. An
    ensemble has a signature and a manifest, and nothing that MLflow could run.
    """
    import mlflow.onnx
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME

    described = Model(**identity)
    described.signature = signature(spec)
    if GRAPH_FILE in manifest.files:
        # An empty graph stands in: MLflow would parse the real one and write its weights to files of their own.
        mlflow.onnx.save_model(
            onnx.ModelProto(),
            str(target),
            mlflow_model=described,
            pip_requirements=pip_requirements(manifest),
            save_as_external_data=False,
        )
        (target / GRAPH_FILE).unlink()
    else:
        target.mkdir()
    for name in (*manifest.files, FILE_NAME):
        link = target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((version_folder / name).resolve())
    described.model_size_bytes = manifest.size_bytes
    described.save(str(target / MLMODEL_FILE_NAME))


def _schema(tensors: tuple[TensorSpec, ...]) -> Any:
    from mlflow.types import Schema
    from mlflow.types import TensorSpec as Column

    return Schema([Column(t.dtype.numpy, (-1, *t.dims), t.name) for t in tensors])
