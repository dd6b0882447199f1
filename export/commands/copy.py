"""`rfserve-export copy`: versions of one repository into another."""

import argparse
from typing import Any

from rfserve.export.commands import repository_option
from rfserve.export.commands.write import EVERY
from rfserve.export.copying import copy_version, served_versions
from rfserve.export.errors import ExportError, VersionNotFound
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import MODELS, RfserveError, find


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    copy = commands.add_parser("copy", help="publish what another repository serves in this one, byte for byte")
    copy.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(MODELS)}, or {EVERY} that it has")
    copy.add_argument(
        "--from",
        dest="source",
        type=_location,
        required=True,
        metavar="LOCATION",
        help="a folder, or s3://BUCKET/PREFIX",
    )
    copy.add_argument("--version", type=int, help="this one (default: every one that a target serves there)")
    copy.set_defaults(run=_copy)
    repository_option.add_to(copy)


def _location(text: str) -> ModelRepository:
    try:
        return repository_option.repository_at(text)
    except RfserveError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _copy(options: argparse.Namespace) -> int:
    source, destination = options.source, options.repository
    if source.location == destination.location:
        raise ExportError(f"got {source.location} twice; expected another --repository than --from")
    if options.version is not None and (len(options.models) > 1 or options.models == [EVERY]):
        raise ExportError("got --version with several models; copy one at a time")
    there = source.models()
    # In the order of the catalogue: ensembles after what they run.
    every = [n for n in MODELS if n in there and source.versions(n)]
    names = every if options.models == [EVERY] else options.models
    specs = [find(name) for name in names]
    for spec in specs:
        versions = [options.version] if options.version is not None else served_versions(source, spec.name)
        if not versions:
            raise VersionNotFound(f"{spec.name} has no version in {source.location}")
        for version in versions:
            manifest, is_new = copy_version(source, destination, spec, version)
            said = "" if is_new else " was there"
            print(f"{destination.location}/{spec.name}/{manifest.version}{said}", flush=True)
    return 0
