"""`rfserve-export`: write, list and check the versions of a model repository."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rfserve.export import table, verification
from rfserve.export.errors import ExportError
from rfserve.export.networks.iq_encoder import ENCODER_ORDERS
from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import MODELS, EnsembleSpec, RfserveError, find

EVERY = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 with the reason on stderr when not."""
    options = _parser().parse_args(arguments)
    try:
        done: int = options.run(options)
    except RfserveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return done


def _write(options: argparse.Namespace) -> int:
    names = list(MODELS) if options.models == [EVERY] else options.models
    specs = [find(name) for name in names]
    source = Source(
        checkpoint=options.checkpoint,
        variant=options.variant,
        encoder_order=options.encoder_order,
        scaling=options.scaling,
        seed=options.seed,
    )
    if len(specs) > 1 and (source != Source(seed=options.seed) or options.version is not None):
        raise ExportError(
            f"got {len(specs)} models with options that belong to one; write them one at a time, or without "
            "--checkpoint, --variant, --encoder-order, --scaling and --version"
        )
    repository = Repository(options.repository)
    for spec in specs:
        if len(specs) > 1 and repository.versions(spec.name) and options.missing:
            continue
        begun = time.monotonic()

        def report(step: str, name: str = spec.name, begun: float = begun) -> None:
            print(f"{name}: {time.monotonic() - begun:6.1f} s  {step}", file=sys.stderr, flush=True)

        # The seed of random weights is the one option that an ensemble among several models may be given in vain.
        own = Source() if len(specs) > 1 and isinstance(spec, EnsembleSpec) else source
        manifest = publish(spec, repository, own, version=options.version, report=report)
        print(f"{options.repository / spec.name / str(manifest.version)}")
        if manifest.weights.startswith("untrained"):
            print(f"{spec.name}: weights are {manifest.weights}: its positions mean nothing", file=sys.stderr)
    return 0


def _list(options: argparse.Namespace) -> int:
    repository = Repository(options.repository)
    for model in verification.served_models(repository):
        for version in repository.versions(model):
            manifest = repository.manifest(model, version)
            size = sum(int(f["bytes"]) for f in manifest.files.values())
            kind = " ".join(k for k in (manifest.variant, manifest.encoder_order) if k)
            print(
                f"{model:20} {version:>4}  {size / 1e6:8.1f} MB  {manifest.created_utc}  "
                f"{manifest.weights}  {kind}".rstrip()
            )
        if not repository.versions(model):
            print(f"{model:20}    -  no version; write one with `rfserve-export write {model}`")
    return 0


def _check(options: argparse.Namespace) -> int:
    repository = Repository(options.repository)
    models = options.models or verification.served_models(repository)
    if not models:
        raise ExportError(f"{options.repository} holds no model; write one with `rfserve-export write MODEL`")
    bad = 0
    for model in models:
        found = verification.problems(repository, model)
        bad += bool(found)
        versions = ", ".join(map(str, repository.versions(model)))
        print(f"{model}: {'; '.join(found) if found else f'ok (version {versions})'}")
    return 1 if bad else 0


def _configure(options: argparse.Namespace) -> int:
    for spec in MODELS.values():
        Repository(options.repository).write_configuration(spec)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfserve-export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    write = commands.add_parser("write", help="export, verify and publish one version of each model named")
    write.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(MODELS)}, or {EVERY}")
    write.add_argument("--checkpoint", type=Path, help="state dict (.pt, .pth), Lightning .ckpt or .safetensors")
    write.add_argument("--version", type=int, help="version number (default: the next one)")
    write.add_argument("--variant", help="size of LocalizationNet (default: the checkpoint's, else large)")
    write.add_argument(
        "--encoder-order",
        choices=ENCODER_ORDERS,
        help="IQ encoder of a HeimdallNet (default: what the checkpoint says, else heimdall-1.0; new weights: mbconv)",
    )
    write.add_argument("--scaling", type=Path, help="JSON file with the scaling used in training")
    write.add_argument("--seed", type=int, default=0, help="of the random weights when there is no checkpoint")
    write.add_argument("--missing", action="store_true", help="with several models: leave those with a version alone")
    write.set_defaults(run=_write)

    listing = commands.add_parser("list", help="the versions in the repository and where their weights come from")
    listing.set_defaults(run=_list)

    check = commands.add_parser("check", help="verify hashes, graphs and configurations again")
    check.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    check.set_defaults(run=_check)

    configure = commands.add_parser(
        "configure", help="write config.pbtxt and its variants of every model from the specs"
    )
    configure.set_defaults(run=_configure)

    for command in (write, listing, check, configure):
        command.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: %(default)s")

    tables = commands.add_parser("table", help="the README's tables of models and tensors")
    tables.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file")
    tables.set_defaults(run=_table)
    return parser


if __name__ == "__main__":
    sys.exit(main())
