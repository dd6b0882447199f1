"""`rfserve-export list`, `check`, `configure` and `table`: what there is, and whether it is as it should be."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rfserve.export import table, verification
from rfserve.export.commands import repository_option
from rfserve.export.errors import ExportError, VersionNotFound
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import MODELS, EnsembleSpec, ModelSpec, find
from rfserve.export.spec.model import SPEC_CORES, TARGETS


def add_to(commands: Any) -> None:
    """Add the commands to the sub-parsers of `rfserve-export`."""
    listing = commands.add_parser(
        "list", help="the versions, which targets serve them, and where their weights come from"
    )
    listing.add_argument("models", nargs="*", metavar="MODEL", help="with what they run (default: all)")
    listing.set_defaults(run=_list)

    check = commands.add_parser("check", help="verify hashes, graphs and configurations again")
    check.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    check.set_defaults(run=_check)

    configure = commands.add_parser(
        "configure", help="write config.pbtxt and its variants of every model from the specs"
    )
    configure.add_argument(
        "--cpu-cores",
        type=int,
        metavar="N",
        help=f"of the machines that serve on the CPU, kept for later writes (the specs' own: {SPEC_CORES})",
    )
    configure.set_defaults(run=_configure)

    for command in (listing, check, configure):
        repository_option.add_to(command)

    tables = commands.add_parser("table", help="the README's tables of models and tensors")
    tables.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file")
    tables.set_defaults(run=_table)


def _list(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    for model in _asked(repository, options.models):
        served = _served(repository, model)
        for version in repository.versions(model):
            manifest = repository.manifest(model, version)
            kind = " ".join(k for k in (manifest.variant, manifest.encoder_order, _drift(manifest)) if k)
            targets = ",".join(t for t, v in served.items() if v == version) or "-"
            print(
                f"{model:20} {version:>4}  {targets:7}  {manifest.size_bytes / 1e6:8.1f} MB  {manifest.created_utc}  "
                f"{manifest.precision}  {manifest.weights}  {kind}".rstrip()
            )
        if not repository.versions(model):
            print(f"{model:20}    -  no version; write one with `rfserve-export write {model}`")
    return 0


def _asked(repository: ModelRepository, names: Sequence[str]) -> list[str]:
    """The named models and what these run, in the repository's order; all of it when none is named."""
    specs = [find(name) for name in names]
    wanted = set(names) | {step.model.name for s in specs if isinstance(s, EnsembleSpec) for step in s.steps}
    return [model for model in repository.models() if not wanted or model in wanted]


def _drift(manifest: Manifest) -> str:
    if manifest.drift is None:
        return ""
    return f"within {manifest.drift['position_p99_m']:.3g} m of {manifest.drift['against']} at p99"


def _served(repository: ModelRepository, model: str) -> dict[str, int | None]:
    """The version that each target serves; None where that one is not there, which `check` reports."""
    state, precisions = repository.serving(model), repository.precisions(model)
    served: dict[str, int | None] = dict.fromkeys(TARGETS)
    for target in TARGETS:
        with suppress(VersionNotFound):
            served[target] = state.served(target, precisions)
    return served


def _check(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    models = options.models or repository.models()
    if not models:
        raise ExportError(f"{repository.location} holds no model; write one with `rfserve-export write MODEL`")
    bad = 0
    for model in models:
        found = verification.problems(repository, model)
        bad += bool(found)
        print(f"{model}: {'; '.join(found) if found else f'ok ({_kept(repository, model)})'}")
    return 1 if bad else 0


def _kept(repository: ModelRepository, model: str) -> str:
    versions = ", ".join(map(str, repository.versions(model)))
    return "; ".join(part for part in (f"version {versions}", repository.serving(model).tuned) if part)


def _configure(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    for spec in MODELS.values():
        if options.cpu_cores is None or not isinstance(spec, ModelSpec):
            repository.write_configuration(spec)
        else:
            try:
                repository.change_serving(spec, lambda state: state.on_cores("cpu", options.cpu_cores))
            except VersionNotFound as error:
                # An object store keeps nothing of a model before its first version.
                print(f"left out: {error}", file=sys.stderr)
    return 0


def _table(options: argparse.Namespace) -> int:
    if options.write is None:
        print(table.model_table() + "\n" + table.tensor_table(), end="")
        return 0
    try:
        options.write.write_text(table.between_markers(options.write.read_text()))
    except (OSError, ValueError) as error:
        raise ExportError(f"{options.write}: {error}") from error
    return 0
