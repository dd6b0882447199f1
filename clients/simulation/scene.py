"""A scene: what is sent from where, and who hears it."""

from dataclasses import dataclass, field

import numpy as np

from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.simulation.emitters import Emitter, Nbfm
from rfserve.clients.simulation.limits import require, require_above_0, require_place
from rfserve.clients.simulation.placement import Station, middle
from rfserve.clients.simulation.propagation import PathLoss
from rfserve.clients.simulation.receiver import FrontEnd
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS, RAW_SAMPLES

CENTER = Position(latitude_deg=45.07, longitude_deg=7.69)
# What is drawn, each from a generator of its own: levels need no samples, and one thing more leaves the rest as it was.
DRAWN = ("receivers", "emitter", "shadowing", "oscillators", "clocks", "emission", "noise", "misplaced", "hearing")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What to simulate; the same scene gives the same numbers and bytes.

    `receivers` is how many to draw within `radius_m` of `center`, or where they stand. `emitter_at` None draws the
    emitter there too. `center` None is the middle of the receivers that are given, else 45.07°, 7.69°.
    `emitter_offset_hz` is the carrier above `center_frequency_hz`. Raises `ClientError` for what cannot be made.
    """

    emitter: Emitter = field(default_factory=Nbfm)
    eirp_dbm: float = 30.0
    emitter_offset_hz: float = 0.0
    emitter_at: Position | None = None
    receivers: int | tuple[Station, ...] = 4
    center: Position | None = None
    radius_m: float = 3_000.0
    path: PathLoss = field(default_factory=PathLoss)
    front_end: FrontEnd = field(default_factory=FrontEnd)
    center_frequency_hz: float = 462.7e6
    sample_rate_hz: float = 250e3
    samples: int = RAW_SAMPLES.served
    seed: int = 1

    def __post_init__(self) -> None:
        self._check_receivers()
        for name, place in {"emitter": self.emitter_at, "centre": self.center}.items():
            if place is not None:
                require_place(name, place)
        require("EIRP", self.eirp_dbm, "dBm", -200.0, 150.0)
        require("radius", self.radius_m, "m", 1.0, 1e6)
        require_above_0("centre frequency", self.center_frequency_hz, "Hz")
        require_above_0("sample rate", self.sample_rate_hz, "Hz")
        require("emitter's offset", self.emitter_offset_hz, "Hz", -self.sample_rate_hz / 2, self.sample_rate_hz / 2)
        if self.samples < RAW_SAMPLES.minimum:
            raise ClientError(f"samples: got {self.samples}; expected at least {RAW_SAMPLES.minimum}")
        if self.seed < 0:
            raise ClientError(f"seed: got {self.seed}; expected 0 or more")
        self._check_emission()

    @property
    def count(self) -> int:
        """How many receivers there are."""
        return self.receivers if isinstance(self.receivers, int) else len(self.receivers)

    @property
    def middle(self) -> Position:
        """What places are drawn around."""
        if self.center is not None:
            return self.center
        return CENTER if isinstance(self.receivers, int) else middle([s.position for s in self.receivers])

    def generator(self, what: str) -> np.random.Generator:
        """The random numbers of one of `DRAWN`, from their beginning."""
        return np.random.default_rng([self.seed, DRAWN.index(what)])

    def _check_receivers(self) -> None:
        if not 1 <= self.count <= RAW_RECEIVERS.maximum:
            raise ClientError(f"receivers: got {self.count}; expected 1 to {RAW_RECEIVERS.maximum}")
        if not isinstance(self.receivers, int):
            # Some file systems do not tell a from A.
            names = [s.name.lower() for s in self.receivers]
            if len(set(names)) != len(names):
                raise ClientError(f"receivers: got the names {', '.join(names)}; expected each once")

    def _check_emission(self) -> None:
        lasting_s = self.samples / self.sample_rate_hz
        if lasting_s < self.emitter.shortest_s:
            raise ClientError(
                f"samples: got {self.samples} at {self.sample_rate_hz:g} Hz, {lasting_s:g} s; expected at least "
                f"{self.emitter.shortest_s:g} s of {self.emitter.kind}: give more samples, or a lower rate"
            )
        error_hz = self.front_end.oscillator_ppm * 1e-6 * self.center_frequency_hz
        needed_hz = self.emitter.bandwidth_hz + 2 * (abs(self.emitter_offset_hz) + error_hz)
        if needed_hz > self.sample_rate_hz:
            raise ClientError(
                f"sample rate: got {self.sample_rate_hz:g} Hz; expected at least {needed_hz:g} Hz for "
                f"{self.emitter.kind} of {self.emitter.bandwidth_hz:g} Hz, {abs(self.emitter_offset_hz):g} Hz off the "
                f"centre, and oscillators up to {error_hz:g} Hz off"
            )
