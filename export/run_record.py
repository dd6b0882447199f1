"""What an MLflow run says of a published version: figures, parameters, tags."""

import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rfserve.export import latency
from rfserve.export.manifest import GRAPH_FILE, Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import ModelSpec
from rfserve.export.spec.model import Served

VERSION_TAG, MANIFEST_TAG, REPOSITORY_TAG = "rfserve.version", "rfserve.manifest_sha256", "rfserve.repository"


def measured(spec: Served, folder: Path) -> tuple[dict[str, float], dict[str, str]]:
    """The latency figures, and on what they were measured."""
    if not isinstance(spec, ModelSpec):
        return {}, {}
    found = latency.measure(folder / GRAPH_FILE, spec)
    figures = {"latency.onnxruntime_cpu.p50_ms": found.p50_ms, "latency.onnxruntime_cpu.p90_ms": found.p90_ms}
    return figures, {"latency.cores": str(found.cores), "latency.machine": platform.machine()}


def metrics(manifest: Manifest) -> dict[str, float]:
    """Size in bytes, and every number that the manifest has of parity and drift."""
    found = {"size_bytes": float(manifest.size_bytes)}
    for prefix, figures in (("parity", manifest.parity), ("drift", manifest.drift)):
        found |= dict(_numbers(prefix, figures or {}))
    return found


def _numbers(prefix: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}.{name}", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}.{name}", float(value)


def parameters(manifest: Manifest) -> dict[str, str]:
    """What the version was made of and with."""
    found: dict[str, Any] = {
        name: getattr(manifest, name)
        for name in ("model", "version", "weights", "precision", "variant", "encoder_order", "opset", "created_utc")
    }
    if manifest.scaling is not None:
        found["scaling"] = json.dumps(manifest.scaling, sort_keys=True)
    if manifest.steps:
        found["steps"] = ", ".join(manifest.steps)
    found |= {f"tools.{name}": number for name, number in manifest.tools.items()}
    return {name: str(value) for name, value in found.items() if value is not None}


def tags(repository: ModelRepository, manifest: Manifest, sha256: str) -> dict[str, str]:
    """What the version is found by; `sha256` is the manifest's."""
    where = repository.location
    found = {
        "rfserve.model": manifest.model,
        VERSION_TAG: str(manifest.version),
        MANIFEST_TAG: sha256,
        REPOSITORY_TAG: where if "://" in where else str(Path(where).resolve()),
        "rfserve.weights": manifest.weights,
        "rfserve.precision": manifest.precision,
        "rfserve.git_revision": manifest.git_revision,
        "rfserve.checkpoint_sha256": (manifest.checkpoint or {}).get("sha256"),
    }
    return {name: value for name, value in found.items() if value is not None}
