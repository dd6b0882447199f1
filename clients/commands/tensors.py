"""`rfserve-client tensors`: recordings to the tensors that an ensemble is sent, in a file, without a server."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.clients import receivers
from rfserve.clients.alignment import align
from rfserve.clients.errors import ClientError
from rfserve.clients.formats import registry
from rfserve.clients.observation import Observation
from rfserve.clients.receivers import Receivers
from rfserve.clients.recording import Recording, read_event
from rfserve.clients.request import ensemble, tensors
from rfserve.export.spec import ENSEMBLES, EnsembleSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """Recordings that make one row, and the name that reports give it."""

    name: str
    recordings: tuple[Recording, ...]


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    command = commands.add_parser("tensors", help="write the tensors that recordings become, to compare versions with")
    command.add_argument(
        "recordings",
        nargs="+",
        type=Path,
        metavar="RECORDING",
        help="each SigMF collection or archive is an event; all other recordings are one together",
    )
    command.add_argument("--model", choices=sorted(ENSEMBLES), default="locate", help="default: %(default)s")
    command.add_argument("--receivers", type=Path, metavar="FILE", help="names to ids and positions of receivers")
    command.add_argument("--start-s", type=float, default=0.0, help="begin so long after the first common instant")
    command.add_argument("--output", type=Path, required=True, metavar="FILE.npz", help="an array for each input")
    command.set_defaults(run=_write)


def events(spec: EnsembleSpec, paths: Sequence[Path], known: Receivers | None = None) -> list[Event]:
    """The events that paths name: first one of all single recordings, if there are any, then one for each other.

    A model of one receiver makes every recording an event. `RecordingError` when one cannot be read.
    """
    found = []
    whole = [p for p in paths if registry.COLLECTIONS.names(p) or registry.ARCHIVES.names(p)]
    single = [p for p in paths if p not in whole]
    if single:
        found.append(_event("recordings", read_event(single, receivers=known)))
    found += [_event(p.stem, read_event([p], receivers=known)) for p in whole]
    if "receivers" in spec.bounds:
        return found
    return [Event(name=r.name, recordings=(r,)) for event in found for r in event.recordings]


def _event(name: str, recordings: Sequence[Recording]) -> Event:
    return Event(name=f"{name} ({', '.join(r.name for r in recordings)})", recordings=tuple(recordings))


def _write(options: argparse.Namespace) -> int:
    spec = ensemble(options.model)
    known = None if options.receivers is None else receivers.read(options.receivers)
    found = events(spec, options.recordings, known)
    samples = next(a for a in spec.axes if a.name == "raw_samples")
    rows = [align(e.recordings, start_s=options.start_s, samples=samples) for e in found]
    arrays = tensors(spec, _of_one_length(rows))
    try:
        with options.output.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise ClientError(f"cannot write {options.output}: {error}") from error
    for event in found:
        print(event.name)
    return 0


def _of_one_length(rows: Sequence[Sequence[Observation]]) -> list[list[Observation]]:
    """Every event cut to the samples that the shortest has: the rows of a tensor have one length."""
    shortest = min(o.iq.size for row in rows for o in row)
    return [[replace(o, iq=o.iq[:shortest]) for o in row] for row in rows]
