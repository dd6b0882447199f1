"""`rfserve-export train`: a HeimdallNet from measured signal strengths, up to its published version."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rfserve.export.commands import registry_option, repository_option, split_options
from rfserve.export.errors import DataError
from rfserve.export.networks.catalog import HEIMDALL_NETS
from rfserve.export.progress import to_stderr
from rfserve.export.spec import GRAPHS


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    train = commands.add_parser("train", help="train a network on measured signal strengths, export and publish it")
    train.add_argument("model", choices=HEIMDALL_NETS, metavar="MODEL", help=", ".join(HEIMDALL_NETS))
    train.add_argument("folder", type=Path, metavar="FOLDER", help="of the run: its checkpoint, figures and curves")
    split_options.add_to(train, may_hold_nothing=True)
    train.add_argument("--seed", type=int, default=0, help="the same one gives the same weights (default: %(default)s)")
    train.add_argument("--epochs", type=int, help="default: the recipe's")
    train.add_argument("--made", type=float, help="events made beside each measured one (default: the recipe's)")
    train.add_argument("--made-far", type=float, help="share of them up to kilometres away (default: the recipe's)")
    train.add_argument(
        "--bf16", action="store_true", default=None, help="mixed precision: faster where the processor multiplies BF16"
    )
    train.add_argument("--sigma-factor", type=float, help="on every sigma, as other folds need (default: the recipe's)")
    train.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    train.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto: a GPU when there is one (default)"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last whole epoch of the run in FOLDER")
    train.add_argument("--publish", action="store_true", help="export, verify and publish into --repository at the end")
    train.set_defaults(run=_train)
    repository_option.add_to(train)
    registry_option.add_register_to(train)


def _train(options: argparse.Namespace) -> int:
    split_options.require_extra()
    # Lightning takes seconds to import, and only this command needs it.
    from rfserve.export.training.rss_module import Recipe  # noqa: PLC0415
    from rfserve.export.training.rss_run import Run, train  # noqa: PLC0415

    if options.everything and options.since is not None:
        raise DataError(f"--everything and --since {options.since}: expected one of them; leave the other out")
    report = to_stderr(options.model)
    given = {f.name: getattr(options, f.name, None) for f in fields(Recipe)}
    run = Run(
        spec=GRAPHS[options.model],
        split=split_options.split_of(options),
        recipe=replace(Recipe(), **{name: value for name, value in given.items() if value is not None}),
        folder=options.folder,
        seed=options.seed,
        threads=options.threads,
        device=options.device,
        resume=options.resume,
        repository=options.repository if options.publish or options.register else None,
        registry=registry_option.registry_of(options),
    )
    trained = train(run, report)
    print(f"{trained.checkpoint}: weights sha256 {trained.weights_sha256[:16]}, {trained.duration_s:.0f} s")
    print(", ".join(f"{name} {value:.4g}" for name, value in sorted(trained.figures.items())))
    if trained.manifest is not None:
        print(f"{options.repository.location}/{trained.manifest.model}/{trained.manifest.version}")
    return 0
