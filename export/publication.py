"""From a spec and perhaps a checkpoint to a published version: build, trace, check, compare, publish."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from rfserve.export import checkpoint as checkpoints
from rfserve.export import onnx_file, parity
from rfserve.export.checkpoint import Checkpoint
from rfserve.export.errors import CheckpointError, ExportError
from rfserve.export.manifest import GRAPH_FILE, Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.networks import convnext_names
from rfserve.export.networks.catalog import HEIMDALL_NETS, build
from rfserve.export.networks.iq_encoder import HEIMDALL_1_0, MBCONV
from rfserve.export.networks.scaled import in_physical_units
from rfserve.export.precision import Variant, convert, require_offered
from rfserve.export.progress import Report
from rfserve.export.quantization import STATIC
from rfserve.export.repository import version_files
from rfserve.export.scaling import NEW_WEIGHTS, Moved, Scaling, moved_home, network_units
from rfserve.export.spec import EnsembleSpec, ModelSpec
from rfserve.export.spec.model import Served
from rfserve.export.spec.precision import FP32


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a version's weights come from. Everything left out is taken from the checkpoint, or is the default."""

    checkpoint: Path | None = None
    variant: str | None = None
    encoder_order: str | None = None
    scaling: Path | Scaling | None = None
    seed: int = 0
    precision: str = FP32
    quantization: str = STATIC


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network in physical units, and what the manifest says of it."""

    module: nn.Module
    scaling: Scaling
    weights: str
    checkpoint: Checkpoint | None
    variant: str | None
    encoder_order: str | None


def build_network(spec: ModelSpec, source: Source) -> Built:
    """The network of a model with its weights and scaling; `ExportError` when the parts do not fit."""
    loaded = None
    if source.checkpoint is not None:
        if not spec.has_weights:
            raise CheckpointError(f"{spec.name} has no weights; leave --checkpoint out")
        loaded = checkpoints.read(source.checkpoint)
    variant = source.variant
    if spec.variants and variant is None:
        variant = convnext_names.variant_of(dict(loaded.state)) if loaded else spec.variants[0]
    order = source.encoder_order
    if spec.name in HEIMDALL_NETS and order is None:
        # A checkpoint that does not say otherwise is Heimdall's.
        order = str(loaded.metadata.get("encoder_order", HEIMDALL_1_0)) if loaded else MBCONV
    network = build(
        spec, variant=variant, encoder_order=order, seed=None if loaded or not spec.has_weights else source.seed
    )
    weights = "none" if not spec.has_weights else f"untrained (seed {source.seed})"
    if loaded:
        loaded.load_into(network)
        weights = "checkpoint"
    scaling = _scaling(spec, source, loaded)
    module = in_physical_units(spec.name, network, scaling)
    return Built(
        module=module, scaling=scaling, weights=weights, checkpoint=loaded, variant=variant, encoder_order=order
    )


def _scaling(spec: ModelSpec, source: Source, loaded: Checkpoint | None) -> Scaling:
    if isinstance(source.scaling, Scaling):
        return source.scaling
    if source.scaling is not None:
        return Scaling.read(source.scaling)
    if loaded is not None:
        said = loaded.metadata.get("scaling")
        return Scaling() if said is None else Scaling.from_dict(said)
    return NEW_WEIGHTS.get(spec.name, Scaling())


def publish(
    spec: Served, repository: ModelRepository, source: Source, *, version: int | None, report: Report
) -> Manifest:
    """Export and publish one version; `ExportError` with the reason, and an unchanged repository, otherwise."""
    if isinstance(spec, EnsembleSpec):
        return _publish_ensemble(spec, repository, source, version)
    require_offered(spec, source.precision)
    report("building the network")
    built = build_network(spec, source)
    moved: Moved = partial(moved_home, built.scaling)

    def fill(folder: Path) -> Callable[[int], Manifest]:
        report(f"tracing to ONNX opset {spec.opset}")
        file = folder / GRAPH_FILE
        onnx_file.write(built.module, spec, file)
        report("checking the graph against the spec")
        onnx_file.check(file, spec)
        report("comparing ONNX Runtime with eager PyTorch")
        session = onnx_file.open_session(file)
        measured = parity.measure(built.module, session, spec, units=network_units(spec, built.scaling), moved=moved)
        measured.require(spec.name)
        report(f"{measured.cases} cases agree, worst difference {max(measured.worst.values()):.2g}")
        del session
        variant = None if source.precision == FP32 else _convert(spec, file, source, report, moved)
        files = version_files(folder)
        report("publishing")
        return lambda number: _manifest(spec, built, number, files, measured, variant)

    return repository.publish(spec, fill, version)


def _convert(spec: ModelSpec, file: Path, source: Source, report: Report, moved: Moved) -> Variant:
    """Put the graph in the precision that was asked for in the place of the FP32 one."""
    report(f"converting to {source.precision}")
    with tempfile.TemporaryDirectory(prefix=".converted-", dir=file.parent) as folder:
        converted = Path(folder) / file.name
        variant = convert(
            spec, file, converted, source.precision, report=report, method=source.quantization, moved=moved
        )
        onnx_file.check(converted, spec)
        onnx_file.weights_file(file).unlink(missing_ok=True)
        for made in Path(folder).iterdir():
            made.replace(file.with_name(made.name))
    drift = variant.drift
    report(
        f"{drift.rows.size} scenes move {drift.position_p99_m:.3g} m at p99, {drift.position_worst_m:.3g} m at worst; "
        f"{variant.size_ratio:.2f} of the size"
        + ("" if variant.latency_ratio is None else f", {variant.latency_ratio:.2f} of the latency")
    )
    return variant


def _manifest(  # noqa: PLR0917
    spec: ModelSpec,
    built: Built,
    number: int,
    files: Mapping[str, Mapping[str, object]],
    measured: parity.Parity,
    variant: Variant | None,
) -> Manifest:
    origin = built.checkpoint
    return Manifest(
        model=spec.name,
        version=number,
        weights=built.weights,
        precision=FP32 if variant is None else variant.precision,
        files=files,
        checkpoint=None if origin is None else {"file": origin.path.name, "sha256": origin.sha256},
        variant=built.variant,
        encoder_order=built.encoder_order,
        scaling=built.scaling.to_dict() if spec.has_weights else None,
        training=_training(origin),
        opset=spec.opset,
        parity={"cases": measured.cases, "tolerance": spec.tolerance, "worst": dict(measured.worst)},
        drift=None if variant is None else variant.to_dict(),
    )


def _training(origin: Checkpoint | None) -> Mapping[str, object] | None:
    """What a checkpoint says of its training, when JSON can hold it; others may have put anything there."""
    said = None if origin is None else origin.metadata.get("training")
    if not isinstance(said, dict):
        return None
    try:
        json.dumps(said)
    except (TypeError, ValueError):
        return None
    return said


def _publish_ensemble(spec: EnsembleSpec, repository: ModelRepository, source: Source, version: int | None) -> Manifest:
    if source != Source():
        raise ExportError(f"{spec.name} is an ensemble and has no network of its own; export its steps with options")
    steps = tuple(s.model.name for s in spec.steps)
    missing = repository.missing_steps(spec)
    if missing:
        raise ExportError(f"{spec.name} runs {', '.join(steps)}; write {', '.join(missing)} first")
    return repository.publish(
        spec,
        lambda _: lambda number: Manifest(model=spec.name, version=number, weights="of its steps", steps=steps),
        version,
    )
