"""`rfserve-export write`: export, verify and publish."""

import argparse
import sys
import time
from typing import Any

from rfserve.export.commands import repository_option, source_options
from rfserve.export.errors import ExportError
from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import MODELS, EnsembleSpec, find

EVERY = "all"


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    write = commands.add_parser("write", help="export, verify and publish one version of each model named")
    write.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(MODELS)}, or {EVERY}")
    write.add_argument("--version", type=int, help="version number (default: the next one)")
    source_options.add_to(write)
    write.add_argument("--missing", action="store_true", help="with several models: leave those with a version alone")
    write.set_defaults(run=_write)
    repository_option.add_to(write)


def _write(options: argparse.Namespace) -> int:
    names = list(MODELS) if options.models == [EVERY] else options.models
    specs = [find(name) for name in names]
    source = source_options.source_of(options)
    if len(specs) > 1 and (source != Source(seed=options.seed) or options.version is not None):
        raise ExportError(
            f"got {len(specs)} models with options that belong to one; write them one at a time, or without "
            "--checkpoint, --variant, --encoder-order, --scaling and --version"
        )
    repository: Repository = options.repository
    for spec in specs:
        if len(specs) > 1 and repository.versions(spec.name) and options.missing:
            continue
        begun = time.monotonic()

        def report(step: str, name: str = spec.name, begun: float = begun) -> None:
            print(f"{name}: {time.monotonic() - begun:6.1f} s  {step}", file=sys.stderr, flush=True)

        # The seed of random weights is the one option that an ensemble among several models may be given in vain.
        own = Source() if len(specs) > 1 and isinstance(spec, EnsembleSpec) else source
        manifest = publish(spec, repository, own, version=options.version, report=report)
        print(f"{repository.location}/{spec.name}/{manifest.version}")
        if manifest.weights.startswith("untrained"):
            print(f"{spec.name}: weights are {manifest.weights}: its positions mean nothing", file=sys.stderr)
    return 0
