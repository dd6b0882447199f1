"""The samples that the receivers of a scene record."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.observation import Observation
from rfserve.clients.simulation import noise
from rfserve.clients.simulation.levels import Levels, levels
from rfserve.clients.simulation.receiver import delayed, quantised
from rfserve.clients.simulation.scene import Scene

# 2026-01-01T12:00:00Z in ns since 1970.
START_NS = 1_767_268_800_000_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Received(Levels):
    """A scene's truth with its samples: `iq` complex (receivers, samples), 1.0 = full scale, as they are written."""

    sample_rate_hz: float
    center_frequency_hz: float
    iq: NDArray[np.complex64]

    @property
    def observations(self) -> list[Observation]:
        """What a client locates, calibrated."""
        return [
            Observation(
                iq=iq,
                sample_rate_hz=self.sample_rate_hz,
                center_frequency_hz=self.center_frequency_hz,
                latitude_deg=station.position.latitude_deg,
                longitude_deg=station.position.longitude_deg,
                altitude_m=station.position.altitude_m,
                start_ns=START_NS,
                receiver_id=station.receiver_id,
                name=station.name,
                full_scale_dbm=float(full_scale_dbm),
            )
            for station, full_scale_dbm, iq in zip(self.stations, self.full_scale_dbm, self.iq, strict=True)
        ]


def simulate(scene: Scene) -> Received:
    """What every receiver records: the emission after its path, its oscillator, its noise and its converter.

    Receivers share no phase: each carrier's is drawn. `ClientError` when a full scale that was given is too low.
    """
    truth = levels(scene)
    spectrum = scene.emitter.spectrum(scene.samples, scene.sample_rate_hz, scene.generator("emission"))
    time_s = np.arange(scene.samples) / scene.sample_rate_hz
    rng = scene.generator("noise")
    iq = np.empty((scene.count, scene.samples), np.complex64)
    for place, name in enumerate(truth.names):
        full_scale_dbm = float(truth.full_scale_dbm[place])
        late_s = float(truth.delay_s[place] + truth.clock_error_s[place])
        angle = 2 * math.pi * (truth.offset_hz[place] * time_s + rng.uniform())
        signal = delayed(spectrum, late_s, sample_rate_hz=scene.sample_rate_hz) * np.exp(1j * angle)
        signal *= 10 ** ((truth.rss_dbm[place] - full_scale_dbm) / 20)
        signal += noise.gaussian(rng, scene.samples) * 10 ** ((truth.thermal_dbm - full_scale_dbm) / 20)
        iq[place] = quantised(signal, scene.front_end.bits, name, full_scale_dbm)
    return Received(
        **vars(truth), sample_rate_hz=scene.sample_rate_hz, center_frequency_hz=scene.center_frequency_hz, iq=iq
    )
