"""`rfserve-client study`: what a served network's fixes lose when a simulated scene gets worse."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rfserve.clients import picture
from rfserve.clients.client import LocalizationClient
from rfserve.clients.commands import scene_options, server_options
from rfserve.clients.errors import ClientError
from rfserve.clients.simulation import study, study_drawing
from rfserve.clients.simulation.scene import Scene
from rfserve.clients.simulation.study import STUDIES
from rfserve.export.spec import ENSEMBLES

SCENES = 100


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    command = commands.add_parser("study", help="how far fixes of simulated scenes are off as the scenes get worse")
    command.add_argument("--model", choices=sorted(ENSEMBLES), default="locate", help="default: %(default)s")
    command.add_argument("--scenes", type=int, default=SCENES, metavar="N", help="at each step (default: %(default)s)")
    command.add_argument(
        "--study",
        action="append",
        choices=[s.name for s in STUDIES],
        help="what gets worse; may be given several times (default: all)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    command.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw them there")
    command.add_argument("--concurrency", type=int, default=2, help="scenes at a time (default: %(default)s)")
    scene_options.add_receivers_to(command)
    scene_options.add_to(command)
    server_options.add_to(command, priority="bulk")
    command.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> int:
    if options.plot is not None:
        picture.require("leave --plot out")
    scene = scene_options.scene_of(options)
    studies = [s for s in STUDIES if options.study is None or s.name in options.study]
    steps = []
    with server_options.client_of(options, options.model) as client:
        if not isinstance(client, LocalizationClient):
            raise ClientError("got --hedge-after-ms; expected none: a study asks one server for one answer")
        for step in study.run(
            scene, client, scenes=options.scenes, studies=studies, concurrency=options.concurrency, progress=True
        ):
            print(f"{step.study} {step.at:g}: {step.error_m[0]:.0f} m", file=sys.stderr, flush=True)
            steps.append(step)
    print(study.table(steps))
    if options.json is not None:
        _write(options.json, scene, options, steps)
    if options.plot is not None:
        study_drawing.draw(steps, options.plot)
    return 0


def _write(file: Path, scene: Scene, options: argparse.Namespace, steps: list[study.Step]) -> None:
    found = {"model": options.model, "scene": asdict(scene), "steps": [asdict(s) for s in steps]}
    try:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ClientError(f"cannot write {file}: {error.strerror}") from error
