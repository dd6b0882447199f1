"""Re-verification of what a repository holds."""

from pathlib import Path

from rfserve.export import onnx_file, pbtxt
from rfserve.export.errors import ExportError, RepositoryError
from rfserve.export.publication import GRAPH_FILE
from rfserve.export.repository import Repository, configuration_files
from rfserve.export.spec import EnsembleSpec, ModelNotFound, find
from rfserve.export.spec.model import Served


def served_models(repository: Repository) -> list[str]:
    """The models that the repository has a folder for, by name; `RepositoryError` when it is no folder."""
    if not repository.folder.is_dir():
        raise RepositoryError(
            f"no model repository at {repository.folder}; write one with `rfserve-export write MODEL`"
        )
    return sorted(f.name for f in repository.folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def problems(repository: Repository, model: str) -> list[str]:
    """Everything that is wrong with a model and each of its versions; empty when it may be served."""
    try:
        spec = find(model)
    except ModelNotFound as error:
        return [str(error)]
    found = _configuration_problems(repository.folder / model, spec)
    versions = repository.versions(model)
    if not versions:
        found.append("no version is published; write one with `rfserve-export write " + model + "`")
    for version in versions:
        found += [f"version {version}: {p}" for p in _version_problems(repository, spec, version)]
    return found


def _configuration_problems(home: Path, spec: Served) -> list[str]:
    found = []
    for name, text in configuration_files(spec).items():
        file = home / name
        if not file.is_file():
            found.append(f"{name} is missing; write it with `rfserve-export configure`")
        elif pbtxt.differs(file.read_text(), text):
            found.append(f"{name} is not what the spec says; write it anew with `rfserve-export configure`")
    return found


def _version_problems(repository: Repository, spec: Served, version: int) -> list[str]:
    folder = repository.folder / spec.name / str(version)
    try:
        manifest = repository.manifest(spec.name, version)
        found = manifest.differences(folder)
        if (manifest.model, manifest.version) != (spec.name, version):
            found.append(f"the manifest is of {manifest.model}/{manifest.version}")
        if isinstance(spec, EnsembleSpec):
            return found + [f"its step {s} has no version" for s in manifest.steps if not repository.versions(s)]
        if GRAPH_FILE not in manifest.files:
            return [*found, f"the manifest lists no {GRAPH_FILE}"]
        if not found:
            onnx_file.check(folder / GRAPH_FILE, spec)
            onnx_file.open_session(folder / GRAPH_FILE)
    except ExportError as error:
        return [str(error)]
    return found
