"""`rfserve-export write`: export, verify and publish."""

import argparse
import sys
from dataclasses import replace
from typing import Any

from rfserve.export.commands import registry_option, repository_option, source_options
from rfserve.export.errors import ExportError, RegistryError
from rfserve.export.model_repository import ModelRepository
from rfserve.export.progress import to_stderr
from rfserve.export.publication import Source, publish
from rfserve.export.quantization import METHODS, STATIC
from rfserve.export.spec import MODELS, EnsembleSpec, find
from rfserve.export.spec.model import TARGETS
from rfserve.export.spec.precision import FP32, PRECISIONS

EVERY = "all"


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    write = commands.add_parser("write", help="export, verify and publish one version of each model named")
    write.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(MODELS)}, or {EVERY}")
    write.add_argument("--version", type=int, help="version number (default: the next one)")
    source_options.add_to(write)
    write.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=FP32,
        help="of the weights: fp16 for GPUs, int8 for CPUs, each behind a gate in metres (default: %(default)s)",
    )
    write.add_argument(
        "--quantization",
        choices=METHODS,
        default=STATIC,
        help="of int8: ranges from calibration, or from each batch (default: %(default)s)",
    )
    write.add_argument("--missing", action="store_true", help="with several models: leave those with a version alone")
    write.set_defaults(run=_write)
    repository_option.add_to(write)
    registry_option.add_register_to(write)


def _write(options: argparse.Namespace) -> int:
    names = list(MODELS) if options.models == [EVERY] else options.models
    specs = [find(name) for name in names]
    source = replace(source_options.source_of(options), precision=options.precision, quantization=options.quantization)
    if len(specs) > 1 and (source != Source(seed=options.seed) or options.version is not None):
        raise ExportError(
            f"got {len(specs)} models with options that belong to one; write them one at a time, or without "
            "--checkpoint, --variant, --encoder-order, --scaling, --precision, --quantization and --version"
        )
    repository: ModelRepository = options.repository
    registry = registry_option.registry_of(options)
    unregistered = []
    for spec in specs:
        if len(specs) > 1 and repository.versions(spec.name) and options.missing:
            continue
        report = to_stderr(spec.name)
        # The seed of random weights is the one option that an ensemble among several models may be given in vain.
        own = Source() if len(specs) > 1 and isinstance(spec, EnsembleSpec) else source
        manifest = publish(spec, repository, own, version=options.version, report=report)
        print(f"{repository.location}/{spec.name}/{manifest.version}")
        if manifest.weights.startswith("untrained"):
            print(f"{spec.name}: weights are {manifest.weights}: its positions mean nothing", file=sys.stderr)
        _warn_of_serving(repository, spec.name, manifest.version)
        if registry is not None:
            try:
                report("registering in MLflow")
                print(registry.register(repository, manifest).uri)
            except RegistryError as error:
                unregistered.append(
                    f"{spec.name}/{manifest.version} is published but not registered: {error}; finish it with "
                    f"`rfserve-export register {spec.name} {manifest.version}`"
                )
    if unregistered:
        raise RegistryError(" | ".join(unregistered))
    return 0


def _warn_of_serving(repository: ModelRepository, model: str, version: int) -> None:
    """Say so where servers come to serve the version that was written because nobody chose one."""
    precisions, state = repository.precisions(model), repository.serving(model)
    taken = [t for t in TARGETS if t not in state.promoted and state.served(t, precisions) == version]
    if taken and len(precisions) > 1:
        print(
            f"{model}: nothing is promoted for {' and '.join(taken)}, so servers that start serve version {version} "
            f"from now on; `rfserve-export promote {model} VERSION` says which one",
            file=sys.stderr,
        )
