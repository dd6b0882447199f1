"""How far a served network's fixes are off when a scene gets worse: fewer receivers, less power, emitters far off."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ClientError
from rfserve.clients.fix import Fix
from rfserve.clients.formats.reading import Position
from rfserve.clients.geodesy import metres_per_degree, unwrapped
from rfserve.clients.observation import Observation
from rfserve.clients.simulation import placement
from rfserve.clients.simulation.levels import Levels, levels
from rfserve.clients.simulation.scene import Scene
from rfserve.clients.simulation.simulator import simulate

QUANTILES = (50, 68, 90)
CONFIDENCE = 0.68


@dataclass(frozen=True, kw_only=True)
class Study:
    """One thing that gets worse in `steps`: `scene` says what is then simulated, and receivers are told to stand
    `misplaced_m` times a step (standard deviation, to the north and to the east) from where they do.
    """

    name: str
    axis: str
    steps: tuple[float, ...]
    scene: Callable[[Scene, float], Scene] = lambda scene, _: scene
    misplaced_m: float = 0.0

    def of(self, scene: Scene) -> tuple[float, ...]:
        """The steps that the scene can have."""
        return tuple(s for s in self.steps if s <= scene.count) if self.name == RECEIVERS else self.steps


def _heard_by(scene: Scene, count: float) -> Scene:
    """Any of the receivers that are given, others in each scene."""
    if isinstance(scene.receivers, int):
        return replace(scene, receivers=int(count))
    order = scene.generator("hearing").permutation(len(scene.receivers))
    return replace(scene, receivers=tuple(scene.receivers[i] for i in sorted(order[: int(count)])))


def _louder(scene: Scene, change_db: float) -> Scene:
    return replace(scene, eirp_dbm=scene.eirp_dbm + change_db)


def _far(scene: Scene, distance_km: float) -> Scene:
    """The emitter in another direction from the middle in each scene."""
    direction = 2 * np.pi * scene.generator("emitter").uniform()
    return replace(scene, emitter_at=placement.at(scene.middle, 1e3 * distance_km, direction))


def _detuned(scene: Scene, oscillator_ppm: float) -> Scene:
    return replace(scene, front_end=replace(scene.front_end, oscillator_ppm=oscillator_ppm))


def _unsynchronised(scene: Scene, clock_error_ms: float) -> Scene:
    return replace(scene, front_end=replace(scene.front_end, clock_error_s=clock_error_ms / 1e3))


RECEIVERS, SNR = "receivers", "snr"
STUDIES = (
    Study(name=RECEIVERS, axis="receivers, any of them", steps=(1, 2, 3, 4, 6, 8, 10), scene=_heard_by),
    Study(name=SNR, axis="SNR of the receivers, median (dB)", steps=(-40, -30, -20, -10, 0, 10), scene=_louder),
    Study(name="distance", axis="emitter from the middle (km)", steps=(0.5, 1, 1.5, 2, 3, 5, 10), scene=_far),
    Study(name="oscillators", axis="error of oscillators, greatest (ppm)", steps=(0, 1, 5, 10, 20), scene=_detuned),
    Study(name="clocks", axis="error of clocks (ms)", steps=(0, 0.1, 1, 10), scene=_unsynchronised),
    Study(name="positions", axis="error of positions (m)", steps=(0, 25, 50, 100, 200, 400), misplaced_m=1.0),
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What became of `scenes` scenes at one step: errors in metres at `QUANTILES`, the median of the receivers' SNR in
    dB and of sqrt(north² + east²) of sigma in metres, the share of emitters inside the ellipse of `CONFIDENCE`, and of
    fixes that say of themselves not to be trusted.
    """

    study: str
    at: float
    scenes: int
    snr_db: float
    error_m: tuple[float, ...]
    sigma_m: float
    inside: float
    doubted: float


def run(
    scene: Scene,
    client: LocalizationClient,
    *,
    scenes: int,
    studies: Sequence[Study] = STUDIES,
    concurrency: int = 2,
    progress: bool = False,
) -> Iterator[Step]:
    """Every step of the studies, one after the other, each of the same `scenes` scenes: seeds upwards from the scene's.

    The emitter stands somewhere else in each scene, unless `scene.emitter_at` says where. `ClientError` for what cannot
    be simulated, before anything is asked, and when the server gives no fix.
    """
    if scenes < 1:
        raise ClientError(f"scenes: got {scenes}; expected 1 or more")
    asked = [
        (study, at, [study.scene(replace(scene, seed=scene.seed + i), at) for i in range(scenes)])
        for study in studies
        for at in study.of(scene)
    ]

    def located(study: Study, at: float, made: Sequence[Scene]) -> Step:
        sources = [partial(_observed, scene, study.misplaced_m * at) for scene in made]
        with closing(client.locate_many(sources, concurrency=concurrency, progress=progress)) as outcomes:
            return _step(study, at, [levels(scene) for scene in made], [outcome.require() for outcome in outcomes])

    return (located(*one) for one in asked)


def table(steps: Sequence[Step]) -> str:
    """As Markdown."""
    heads = ["study", "step", "SNR", *(f"{q} %" for q in QUANTILES), f"in {CONFIDENCE:.0%}", "sigma", "doubtful"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for step in steps:
        cells = [step.study, f"{step.at:g}", f"{step.snr_db:.0f} dB", *(f"{e:.0f} m" for e in step.error_m)]
        cells += [f"{step.inside:.0%}", f"{step.sigma_m:.0f} m", f"{step.doubted:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _step(study: Study, at: float, truths: Sequence[Levels], fixes: Sequence[Fix]) -> Step:
    places = [truth.emitter_at for truth in truths]
    error_m = [_error_m(fix, place) for fix, place in zip(fixes, places, strict=True)]
    shapes = [fix.ellipse(CONFIDENCE) for fix in fixes]
    inside = [
        (north / shape.semi_north_m) ** 2 + (east / shape.semi_east_m) ** 2 <= 1
        for (north, east), shape in zip(error_m, shapes, strict=True)
    ]
    return Step(
        study=study.name,
        at=at,
        scenes=len(fixes),
        snr_db=float(np.median(np.concatenate([t.snr_db for t in truths]))),
        error_m=tuple(float(q) for q in np.percentile(np.hypot(*np.transpose(error_m)), QUANTILES)),
        sigma_m=float(np.median([np.hypot(f.sigma_north_m, f.sigma_east_m) for f in fixes])),
        inside=float(np.mean(inside)),
        doubted=float(np.mean([bool(f.doubt) for f in fixes])),
    )


def _error_m(fix: Fix, place: Position) -> tuple[float, float]:
    """How far the fix is to the north and to the east of the truth."""
    north_per_deg, east_per_deg = metres_per_degree(place.latitude_deg)
    east_deg = unwrapped(fix.longitude_deg, place.longitude_deg) - place.longitude_deg
    return (fix.latitude_deg - place.latitude_deg) * north_per_deg, east_deg * east_per_deg


def _observed(scene: Scene, misplaced_m: float) -> list[Observation]:
    observations = simulate(scene).observations
    if not misplaced_m:
        return observations
    moved_m = misplaced_m * scene.generator("misplaced").standard_normal((len(observations), 2))
    return [_moved(o, north, east) for o, (north, east) in zip(observations, moved_m, strict=True)]


def _moved(observation: Observation, north_m: float, east_m: float) -> Observation:
    north_per_deg, east_per_deg = metres_per_degree(observation.latitude_deg)
    return replace(
        observation,
        latitude_deg=float(np.clip(observation.latitude_deg + north_m / north_per_deg, -90, 90)),
        longitude_deg=unwrapped(observation.longitude_deg + east_m / east_per_deg, 0.0),
    )
