"""Versions that are published without the parity gate: other tests are for that, and some would not pass it."""

from pathlib import Path

from rfserve.export import onnx_file
from rfserve.export.manifest import GRAPH_FILE, Manifest
from rfserve.export.publication import Built
from rfserve.export.repository import Repository, version_files
from rfserve.export.spec import ModelSpec


def publish_ungated(repository: Repository, spec: ModelSpec, built: Built) -> int:
    """The number of the version."""

    def fill(folder: Path):
        onnx_file.write(built.module, spec, folder / GRAPH_FILE)
        files = version_files(folder)
        scaling = built.scaling.to_dict() if spec.has_weights else None
        return lambda number: Manifest(
            model=spec.name, version=number, weights=built.weights, files=files, opset=spec.opset, scaling=scaling
        )

    return repository.publish(spec, fill).version
