"""`rfserve-export evaluate`: how far a serving Triton's fixes are from the truth, beside what is simpler."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfserve.export.commands import server_options, split_options
from rfserve.export.errors import DataError
from rfserve.export.live import LiveServer
from rfserve.export.networks.catalog import HEIMDALL_NETS
from rfserve.export.spec import GRAPHS
from rfserve.export.training import powder
from rfserve.export.training.split import CELL_M, Split, by_source

if TYPE_CHECKING:
    from rfserve.export.training.evaluation import Evaluation


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    evaluate = commands.add_parser("evaluate", help="accuracy of a served network on measured events with known truth")
    evaluate.add_argument("model", nargs="?", default=HEIMDALL_NETS[0], choices=HEIMDALL_NETS, metavar="MODEL")
    split_options.add_to(evaluate)
    evaluate.add_argument(
        "--learn-from", type=Path, metavar="PATH", help="other events for the baselines; all of --data is then located"
    )
    evaluate.add_argument(
        "--receivers", type=int, metavar="N", help="leave each event its strongest N (default: all that heard it)"
    )
    evaluate.add_argument("--url", default="127.0.0.1:8001", metavar="HOST:PORT", help="gRPC of the running server")
    evaluate.add_argument("--version", type=int, help="of the model (default: the one that is served)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    evaluate.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw map.svg, calibration.svg and sensitivity.svg there"
    )
    evaluate.add_argument("--timeout-s", type=float, default=30.0, help="of each call (default: %(default)s)")
    server_options.add_to(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    split_options.require_extra()
    # scikit-learn and SciPy take a second to import, and only this command needs them.
    from rfserve.export.training import nearness  # noqa: PLC0415
    from rfserve.export.training.evaluation import ask, draw, evaluate  # noqa: PLC0415

    split = _split(options)
    if options.receivers is not None:
        if options.receivers < 1:
            raise DataError(f"--receivers: got {options.receivers}; expected 1 or more")
        split = split.strongest(options.receivers)
    spec = GRAPHS[options.model]
    key, encryption = server_options.key_of(options), server_options.encryption_of(options)
    with LiveServer(options.url, options.timeout_s, key, encryption) as server:
        served = ask(server, spec, split.held_out, options.version)
        found = evaluate(served, spec, split)
        print(f"{found.split}: {len(split.held_out)} events, baselines learned from {found.learned}\n")
        print(f"{found.text()}\n\n{nearness.table(found, split)}")
        if options.json is not None:
            write(found, options.json)
        if options.plots is not None:
            draw(server, served, split, found, options.plots)
    return 0


def _split(options: argparse.Namespace) -> Split:
    if options.learn_from is None:
        return split_options.split_of(options)
    if (options.fold, options.cell_m, options.since) != (0, CELL_M, None):
        raise DataError("--learn-from: all of --data is located; leave out --fold, --cell-m and --since")
    return by_source(options.data.name, powder.read(options.learn_from), powder.read(options.data))


def write(found: "Evaluation", file: Path) -> None:
    """Write the figures as JSON; `DataError` when that fails."""
    try:
        file.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error
