"""`rfserve-export place`: how a target runs a model, where another placement than the spec's was measured best."""

import argparse
from typing import Any

from rfserve.export.commands import repository_option
from rfserve.export.errors import ExportError
from rfserve.export.model_repository import ModelRepository
from rfserve.export.spec import EnsembleSpec, ModelSpec, Placement, find
from rfserve.export.spec.model import TARGETS


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    place = commands.add_parser(
        "place",
        help="write a tuned placement into a target's configuration, and keep to it; `rfserve-loadtest tune` finds one",
    )
    place.add_argument("model", metavar="MODEL")
    place.add_argument("--target", choices=TARGETS, required=True)
    place.add_argument("--instances", type=int, metavar="N", help="two or more")
    place.add_argument("--threads", type=int, metavar="N", help="of each instance")
    place.add_argument("--joined-rows", type=int, metavar="N", help="rows that the batcher joins at most")
    place.add_argument("--spec", action="store_true", help="the spec's own placement again")
    repository_option.add_to(place)
    place.set_defaults(run=_place)


def _place(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    spec = find(options.model)
    if isinstance(spec, EnsembleSpec):
        steps = ", ".join(s.model.name for s in spec.steps)
        raise ExportError(f"{spec.name} is an ensemble and has no placement of its own; place its steps: {steps}")
    placement = _placement(spec, options)
    state = repository.change_serving(spec, lambda state: state.placed(options.target, placement))
    print(f"{spec.name}: {state.tuned or 'placed as the spec says'}; served from the next load on")
    return 0


def _placement(spec: ModelSpec, options: argparse.Namespace) -> Placement | None:
    given = (options.instances, options.threads, options.joined_rows)
    if options.spec and given == (None, None, None):
        return None
    if options.spec or None in given:
        raise ExportError("expected --instances, --threads and --joined-rows together, or --spec alone")
    if options.joined_rows > spec.max_batch_size:
        raise ExportError(
            f"got {options.joined_rows} joined rows; expected 1 to {spec.max_batch_size}, the largest batch"
        )
    return Placement(instances=options.instances, intra_op_threads=options.threads, joined_rows=options.joined_rows)
