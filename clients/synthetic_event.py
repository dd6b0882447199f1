"""The small event of the demo: receivers on a ring around one emitter; `simulation` makes others."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfserve.clients import sigmf_event
from rfserve.clients.errors import ClientError
from rfserve.clients.formats.reading import Position
from rfserve.clients.geodesy import metres_per_degree
from rfserve.clients.sigmf_event import Stream
from rfserve.clients.simulation.emitters import Qpsk
from rfserve.clients.simulation.propagation import SPEED_OF_LIGHT_M_S
from rfserve.clients.simulation.receiver import delayed
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS, RAW_SAMPLES

FULL_SCALE = 32767
EMITTER_DEG = (45.07, 7.69)


@dataclass(frozen=True, kw_only=True)
class SyntheticEvent:
    """What to make. The emitter sends seeded QPSK symbols, shaped by a root raised cosine into `bandwidth_hz`.

    `snr_db` is that of the nearest receiver, over the whole sampled band; the others' follow free-space loss (20 dB a
    decade of distance). `offset_hz` is the greatest error of a receiver's oscillator at the centre frequency.
    """

    receivers: int = 4
    samples: int = RAW_SAMPLES.served
    sample_rate_hz: float = 1e6
    center_frequency_hz: float = 433.92e6
    bandwidth_hz: float = 2e5
    snr_db: float = 30.0
    offset_hz: float = 200.0
    radius_m: float = 5_000.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.receivers <= RAW_RECEIVERS.maximum:
            raise ClientError(f"receivers: got {self.receivers}; expected 1 to {RAW_RECEIVERS.maximum}")
        if self.samples < RAW_SAMPLES.minimum:
            raise ClientError(f"samples: got {self.samples}; expected at least {RAW_SAMPLES.minimum}")
        if self.seed < 0:
            raise ClientError(f"seed: got {self.seed}; expected 0 or more")
        if not 0 < self.bandwidth_hz <= self.sample_rate_hz:
            raise ClientError(
                f"bandwidth: got {self.bandwidth_hz:g} Hz; expected up to the sample rate, {self.sample_rate_hz:g} Hz"
            )
        if not self.radius_m > 0:
            raise ClientError(f"radius: got {self.radius_m} m; expected above 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reception:
    """One receiver of the event: its truth and its samples, complex (samples,), 1.0 = full scale."""

    name: str
    latitude_deg: float
    longitude_deg: float
    distance_m: float
    delay_s: float
    snr_db: float
    offset_hz: float
    iq: NDArray[np.complex64]


def receive(event: SyntheticEvent) -> list[Reception]:
    """The receivers on a ring of uneven radius around the emitter, each with its own delay, level, offset and noise."""
    rng = np.random.default_rng(event.seed)
    spectrum = Qpsk(bandwidth_hz=event.bandwidth_hz).spectrum(event.samples, event.sample_rate_hz, rng)
    angles = 2 * np.pi * (np.arange(event.receivers) + rng.uniform(-0.3, 0.3, event.receivers)) / event.receivers
    distances = event.radius_m * rng.uniform(0.4, 1.0, event.receivers)
    offsets = rng.uniform(-event.offset_hz, event.offset_hz, event.receivers)
    nearest = float(distances.min())
    north_m, east_m = metres_per_degree(EMITTER_DEG[0])
    received = []
    for number, (angle, distance, offset) in enumerate(zip(angles, distances, offsets, strict=True), start=1):
        latitude = EMITTER_DEG[0] + distance * math.sin(angle) / north_m
        longitude = EMITTER_DEG[1] + distance * math.cos(angle) / east_m
        snr_db = event.snr_db - 20 * math.log10(distance / nearest)
        delay = float(distance) / SPEED_OF_LIGHT_M_S
        late = delayed(spectrum, delay, sample_rate_hz=event.sample_rate_hz, carrier_hz=event.center_frequency_hz)
        signal = late * 10 ** (snr_db / 20)
        time_s = np.arange(event.samples) / event.sample_rate_hz
        noise = (rng.normal(size=event.samples) + 1j * rng.normal(size=event.samples)) / math.sqrt(2)
        mixed = signal * np.exp(2j * np.pi * offset * time_s) + noise
        # Ten standard deviations of headroom: nothing clips.
        scaled = mixed / (10 * math.sqrt(1 + 10 ** (event.snr_db / 10)))
        received.append(
            Reception(
                name=f"R{number}",
                latitude_deg=latitude,
                longitude_deg=longitude,
                distance_m=float(distance),
                delay_s=delay,
                snr_db=snr_db,
                offset_hz=float(offset),
                iq=scaled.astype(np.complex64),
            )
        )
    return received


def write(event: SyntheticEvent, folder: Path) -> Path:
    """Write the event as a SigMF collection with `truth.json` beside it; the collection's path.

    Files of an earlier event are replaced. `ClientError` when the folder cannot be written.
    """
    received = receive(event)
    return sigmf_event.write(
        folder,
        [_stream(r) for r in received],
        sample_rate_hz=event.sample_rate_hz,
        center_frequency_hz=event.center_frequency_hz,
        truth=_truth(event, received),
    )


def _stream(reception: Reception) -> Stream:
    pairs = np.stack([reception.iq.real, reception.iq.imag], -1)
    return Stream(
        name=reception.name,
        position=Position(latitude_deg=reception.latitude_deg, longitude_deg=reception.longitude_deg),
        pairs=np.round(pairs * FULL_SCALE).astype(np.int16),
    )


def _truth(event: SyntheticEvent, received: list[Reception]) -> dict[str, Any]:
    return {
        "event": "synthetic",
        "emitter": {"lat": EMITTER_DEG[0], "lon": EMITTER_DEG[1]},
        "center_frequency_hz": event.center_frequency_hz,
        "simultaneous": True,
        "receivers": [
            {
                "id": r.name,
                "recording": f"synthetic_{r.name}",
                "lat": r.latitude_deg,
                "lon": r.longitude_deg,
                "distance_km": r.distance_m / 1000,
                "delay_us": r.delay_s * 1e6,
                "snr_db": r.snr_db,
                "carrier_offset_hz": r.offset_hz,
            }
            for r in received
        ],
    }
