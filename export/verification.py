"""Re-verification of what a repository holds."""

from pathlib import Path

from rfserve.export import onnx_file, pbtxt
from rfserve.export.errors import ExportError, RepositoryError
from rfserve.export.manifest import GRAPH_FILE, Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import EnsembleSpec, ModelNotFound, find
from rfserve.export.spec.model import Served


def problems(repository: ModelRepository, model: str) -> list[str]:
    """Everything that is wrong with a model and each of its versions; empty when it may be served."""
    try:
        spec = find(model)
    except ModelNotFound as error:
        return [str(error)]
    found = _configuration_problems(repository, spec)
    versions = repository.versions(model)
    if not versions:
        found.append("no version is published; write one with `rfserve-export write " + model + "`")
    for version in versions:
        found += [f"version {version}: {p}" for p in version_problems(repository, spec, version)]
    return found


def _configuration_problems(repository: ModelRepository, spec: Served) -> list[str]:
    try:
        expected = repository.expected_files(spec)
    except RepositoryError as error:
        return [str(error)]
    found = []
    for name, content in expected.items():
        got = repository.read_file(spec.name, name)
        if got is None:
            found.append(f"{name} is missing; write it with `rfserve-export configure`")
        elif _differs(name, got, content):
            found.append(
                f"{name} is not what the spec and serving.json say; write it anew with `rfserve-export configure`"
            )
    return found


def _differs(name: str, got: bytes, expected: bytes) -> bool:
    if name.endswith(".pbtxt"):
        return pbtxt.differs(got.decode(errors="replace"), expected.decode())
    return got != expected


def version_problems(repository: ModelRepository, spec: Served, version: int) -> list[str]:
    """Everything that is wrong with one version: its manifest, hashes and graph, and whether ONNX Runtime loads it."""
    try:
        manifest = repository.manifest(spec.name, version)
        if manifest.version != version:
            return [f"the manifest is of {manifest.model}/{manifest.version}"]
        with repository.version_folder(spec.name, version) as folder:
            return _file_problems(repository, spec, manifest, folder)
    except ExportError as error:
        return [str(error)]


def _file_problems(repository: ModelRepository, spec: Served, manifest: Manifest, folder: Path) -> list[str]:
    found = manifest.differences(folder)
    if manifest.model != spec.name:
        found.append(f"the manifest is of {manifest.model}/{manifest.version}")
    if isinstance(spec, EnsembleSpec):
        return found + [f"its step {s} has no version" for s in manifest.steps if not repository.versions(s)]
    if GRAPH_FILE not in manifest.files:
        return [*found, f"the manifest lists no {GRAPH_FILE}"]
    if not found:
        onnx_file.check(folder / GRAPH_FILE, spec)
        onnx_file.open_session(folder / GRAPH_FILE)
    return found
