"""Several evaluations as one: every fold's held-out events, each judged by the weights that had not learned it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.export.errors import DataError
from rfserve.export.training.evaluation import Errors, Evaluation


def read(file: Path) -> Evaluation:
    """The evaluation that `rfserve-export evaluate --json` wrote; `DataError` when it holds none."""
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        errors = Errors(
            events=tuple(held["errors"]["events"]),
            error_m={way: np.array(e, np.float64) for way, e in held["errors"]["error_m"].items()},
            sigma_m=np.array(held["errors"]["sigma_m"], np.float64),
        )
        named = {name: held[name] for name in ("split", "learned", "model", "version")}
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is no evaluation ({type(error).__name__}: {error}); expected what this version's "
            "`rfserve-export evaluate --json` writes"
        ) from error
    shapes = {e.shape for e in (*errors.error_m.values(), errors.sigma_m)}
    if shapes != {(len(errors.events), 2)}:
        raise DataError(f"{file}: got errors of shapes {sorted(shapes)} for {len(errors.events)} events; write it anew")
    return Evaluation.of(errors, **named)


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation over the events of all. `DataError` unless they are of one model, by the same ways, and no event
    is in two of them.
    """
    models = sorted({e.model for e in evaluations})
    if len(models) != 1:
        raise DataError(f"got evaluations of {', '.join(models) or 'nothing'}; expected some of one model")
    ways = [tuple(e.errors.error_m)[1:] for e in evaluations]
    if len(set(ways)) != 1:
        raise DataError("got evaluations that compare with different ways; write them with one version of rfserve")
    events = [event for e in evaluations for event in e.errors.events]
    twice = len(events) - len(set(events))
    if twice:
        raise DataError(
            f"{twice} of {len(events)} events are in two of the files; expected each in one: give every fold once"
        )
    versions = {e.version for e in evaluations}
    version = versions.pop() if len(versions) == 1 else None
    name = models[0] if version is None else f"{models[0]}/{version}"
    error_m = {name: np.concatenate([next(iter(e.errors.error_m.values())) for e in evaluations])}
    error_m |= {way: np.concatenate([e.errors.error_m[way] for e in evaluations]) for way in ways[0]}
    return Evaluation.of(
        Errors(
            events=tuple(events),
            error_m=error_m,
            sigma_m=np.concatenate([e.errors.sigma_m for e in evaluations]),
        ),
        split="; ".join(e.split for e in evaluations),
        learned=min(e.learned for e in evaluations),
        model=models[0],
        version=version,
    )
