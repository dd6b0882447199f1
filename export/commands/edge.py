"""`rfserve-export coreml`: a network for Apple devices, outside of the model repository."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rfserve.export.commands import source_options
from rfserve.export.errors import EdgeError
from rfserve.export.progress import to_stderr
from rfserve.export.publication import build_network
from rfserve.export.spec import EnsembleSpec, find


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    coreml = commands.add_parser(
        "coreml", help="convert a network to a Core ML package (pip install 'rfserve[coreml]')"
    )
    coreml.add_argument("model", metavar="MODEL", help="a network with weights")
    coreml.add_argument("--output", type=Path, required=True, metavar="FILE.mlpackage", help="a name not yet taken")
    source_options.add_to(coreml)
    coreml.set_defaults(run=_coreml)


def _coreml(options: argparse.Namespace) -> int:
    spec = find(options.model)
    if isinstance(spec, EnsembleSpec):
        raise EdgeError(f"{spec.name} is an ensemble; convert its network, {spec.steps[-1].model.name}")
    try:
        # An extra of its own, and slow to import.
        from rfserve.export import edge  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "coremltools":
            raise
        raise EdgeError("coremltools is not installed; `pip install 'rfserve[coreml]'`") from error
    report = to_stderr(spec.name)
    built = build_network(spec, source_options.source_of(options))
    size = edge.write(spec, built, options.output, report)
    print(f"{options.output}  {size / 1e6:.1f} MB")
    if built.weights.startswith("untrained"):
        print(f"{spec.name}: weights are {built.weights}: its positions mean nothing", file=sys.stderr)
    return 0
