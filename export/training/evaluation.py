"""A served network and the baselines on the same events, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfserve.export.errors import DataError
from rfserve.export.live import LiveServer
from rfserve.export.spec import GRAPHS, ModelSpec
from rfserve.export.spec.queueing import Priority
from rfserve.export.training import calibration, error_map, sensitivity
from rfserve.export.training.accuracy import CONFIDENCES, QUANTILES, Accuracy, measure
from rfserve.export.training.baselines import BASELINES
from rfserve.export.training.plane import around
from rfserve.export.training.rss_event import RssEvent, truths_deg
from rfserve.export.training.rss_tensors import tensors
from rfserve.export.training.split import Split


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server answered for n events: positions (n, 2) in degrees, sigma (n, 2) in metres, and which version."""

    positions_deg: NDArray[np.float64]
    sigma_m: NDArray[np.float64]
    version: int


def ask(server: LiveServer, spec: ModelSpec, events: Sequence[RssEvent], version: int | None = None) -> Served:
    """Have a server locate events, a full batch at a time.

    `LiveServerError` when it cannot, `DataError` when an answer is no number or the version changes on the way.
    """
    positions, sigmas, versions = [], [], set()
    for start in range(0, len(events), spec.max_batch_size):
        asked = tensors(spec, events[start : start + spec.max_batch_size])
        found, by = server.infer(spec.name, asked, version, priority=Priority.BULK)
        positions.append(found["positions"].astype(np.float64))
        sigmas.append(found["uncertainties"].astype(np.float64))
        versions.add(by)
    if len(versions) != 1:
        raise DataError(f"{spec.name}: versions {sorted(versions)} answered; name one, so that one is judged")
    served = Served(positions_deg=np.concatenate(positions), sigma_m=np.concatenate(sigmas), version=versions.pop())
    if not (np.isfinite(served.positions_deg).all() and (served.sigma_m > 0).all()):
        raise DataError(f"{spec.name}/{served.version} answered numbers that are no position; was it trained?")
    return served


@dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """How far every way was from the same n events: `error_m` (n, 2) to the north and east, the network's first, whose
    sigma is `sigma_m` (n, 2). `events` names them by their time, and the place of the transmitter.
    """

    events: tuple[str, ...]
    error_m: Mapping[str, NDArray[np.float64]]
    sigma_m: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, to the centimetre."""
        return {
            "events": self.events,
            "error_m": {way: error.round(2).tolist() for way, error in self.error_m.items()},
            "sigma_m": self.sigma_m.round(2).tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was asked, and the accuracy of every way to answer it, the network's first.

    `version` is None when several answered. `inside` are the shares of truths in the network's ellipses of the
    confidences `calibration.STEPS`, and `sigma_factor` is what its sigmas would have to be multiplied by.
    """

    split: str
    learned: int
    model: str
    version: int | None
    ways: Mapping[str, Accuracy]
    inside: tuple[float, ...]
    sigma_factor: float
    errors: Errors

    @classmethod
    def of(cls, errors: Errors, *, split: str, learned: int, model: str, version: int | None) -> "Evaluation":
        """Of what every way was off by."""
        network, *others = errors.error_m
        ways = {network: measure(errors.error_m[network], errors.sigma_m)}
        return cls(
            split=split,
            learned=learned,
            model=model,
            version=version,
            ways=ways | {way: measure(errors.error_m[way]) for way in others},
            inside=tuple(calibration.shares(errors.error_m[network], errors.sigma_m).tolist()),
            sigma_factor=calibration.sigma_factor(errors.error_m[network], errors.sigma_m),
            errors=errors,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        figures = {f.name: getattr(self, f.name) for f in fields(self)}
        ways = {way: asdict(accuracy) for way, accuracy in self.ways.items()}
        return figures | {"ways": ways, "errors": self.errors.to_dict()}

    def text(self) -> str:
        """The table, and what sigma would have to be."""
        would = f"sigma x {self.sigma_factor:.2f} would put 68 % of the truths into the 68 % ellipse"
        return f"{self.table()}\n\n{would}"

    def table(self) -> str:
        """As Markdown: errors in metres, shares of truths inside the ellipse in per cent, NLL in nats."""
        heads = [f"{q} %" for q in QUANTILES] + [f"in {c:.0%}" for c in CONFIDENCES] + ["NLL", "sigma"]
        lines = [f"| way | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
        for name, found in self.ways.items():
            cells = [f"{e:.0f} m" for e in found.error_m]
            if found.inside is not None and found.nll is not None and found.sigma_m is not None:
                cells += [f"{100 * i:.0f} %" for i in found.inside]
                cells += [f"{found.nll:.2f}", f"{found.sigma_m:.0f} m"]
            lines.append(f"| {' | '.join([name, *cells, *['-'] * (len(heads) - len(cells))])} |")
        return "\n".join(lines)


def evaluate(served: Served, spec: ModelSpec, split: Split) -> Evaluation:
    """What was served for the events that a split holds out, and every baseline; these learn from the rest of it."""
    plane = around(truths_deg(split.learned))
    at = plane.metres(truths_deg(split.held_out))
    error_m = {f"{spec.name}/{served.version}": plane.metres(served.positions_deg) - at}
    for name, baseline in BASELINES.items():
        error_m[name] = baseline(split.learned, split.held_out, plane) - at
    return Evaluation.of(
        Errors(events=tuple(e.label for e in split.held_out), error_m=error_m, sigma_m=served.sigma_m),
        split=split.name,
        learned=len(split.learned),
        model=spec.name,
        version=served.version,
    )


def draw(server: LiveServer, served: Served, split: Split, found: Evaluation, folder: Path) -> None:
    """Draw fixes on a map, whether ellipses hold what they say, and what worse events cost.

    `map.svg`, `calibration.svg` and `sensitivity.svg` in a folder, which is made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot draw into {folder}: {error.strerror}; name another folder") from error
    plane = around(truths_deg(split.learned))
    at = plane.metres(truths_deg(split.held_out))
    receivers = {n: p for e in split.held_out for n, p in zip(e.names, plane.metres(e.receivers_deg), strict=True)}
    error_map.draw(
        at, plane.metres(served.positions_deg), served.sigma_m, np.array(list(receivers.values())), folder / "map.svg"
    )

    def locate(events: Sequence[RssEvent]) -> Accuracy:
        worse = ask(server, GRAPHS[found.model], events, served.version)
        return measure(plane.metres(worse.positions_deg) - plane.metres(truths_deg(events)), worse.sigma_m)

    calibration.draw({found.split: np.array(found.inside)}, folder / "calibration.svg")
    sensitivity.draw(sensitivity.study(split.held_out, locate, plane), folder / "sensitivity.svg")
