"""A small synthetic SigMF event: receivers around one emitter, with true delays, levels and noise."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sigmf.sigmffile import SigMFFile

from rfserve.clients.errors import ClientError
from rfserve.clients.geodesy import metres_per_degree
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS, RAW_SAMPLES

SPEED_OF_LIGHT_M_S = 299_792_458.0
ROLL_OFF = 0.25
FULL_SCALE = 32767
START = "2026-01-01T12:00:00.000000000Z"
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
    spectrum = _emission(event, rng)
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
        signal = _delayed(spectrum, delay, event) * 10 ** (snr_db / 20)
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
    collection = folder / "synthetic.sigmf-collection"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        streams = [_write_recording(folder, event, r) for r in received]
        content = {"core:version": "1.2.0", "core:description": "synthetic event, made by rfserve"}
        text = json.dumps({"collection": content | {"core:streams": streams}}, indent=2)
        collection.write_text(text + "\n")
        (folder / "truth.json").write_text(json.dumps(_truth(event, received), indent=2) + "\n")
    except OSError as error:
        raise ClientError(f"cannot write the event to {folder}: {error}") from error
    return collection


def _emission(event: SyntheticEvent, rng: np.random.Generator) -> NDArray[np.complex128]:
    """The spectrum of unit-power QPSK with root-raised-cosine edges (cos of half the raised cosine's angle)."""
    # A whole number of symbols, so that the emission repeats without a seam.
    count = round(event.samples * event.bandwidth_hz / (1 + ROLL_OFF) / event.sample_rate_hz)
    symbols = rng.choice([1, 1j, -1, -1j], count)
    # Impulses between samples: their spectrum is that of the symbols, repeated.
    bins = np.fft.fftfreq(event.samples, 1 / event.samples).astype(int)
    in_symbol_rates = np.abs(bins) / count
    shape = np.clip((in_symbol_rates - (1 - ROLL_OFF) / 2) / ROLL_OFF, 0, 1)
    spectrum: NDArray[np.complex128] = np.fft.fft(symbols)[bins % count] * np.cos(np.pi / 2 * shape)
    power = np.mean(np.abs(np.fft.ifft(spectrum)) ** 2)
    return spectrum / math.sqrt(power)


def _delayed(spectrum: NDArray[np.complex128], delay_s: float, event: SyntheticEvent) -> NDArray[np.complex128]:
    """The emission after a delay of any fraction of a sample, by the shift theorem, the carrier's phase included."""
    frequency = event.center_frequency_hz + np.fft.fftfreq(event.samples, 1 / event.sample_rate_hz)
    return np.fft.ifft(spectrum * np.exp(-2j * np.pi * frequency * delay_s))


def _write_recording(folder: Path, event: SyntheticEvent, reception: Reception) -> dict[str, str]:
    stem = folder / f"synthetic_{reception.name}"
    pairs = np.stack([reception.iq.real, reception.iq.imag], -1)
    data = stem.with_suffix(".sigmf-data")
    np.round(pairs * FULL_SCALE).astype("<i2").tofile(data)
    info = {
        "core:datatype": "ci16_le",
        "core:sample_rate": event.sample_rate_hz,
        "core:description": f"synthetic receiver {reception.name}, made by rfserve",
        "core:license": "https://www.apache.org/licenses/LICENSE-2.0",
    }
    place = {"type": "Point", "coordinates": [reception.longitude_deg, reception.latitude_deg, 0.0]}
    file = SigMFFile(data_file=str(data), global_info=info)
    file.add_capture(
        0,
        metadata={"core:frequency": event.center_frequency_hz, "core:datetime": START, "core:geolocation": place},
    )
    meta = stem.with_suffix(".sigmf-meta")
    # The library refuses to replace a file; a generator is run again.
    meta.unlink(missing_ok=True)
    file.tofile(str(meta))
    return {"name": stem.name, "hash": hashlib.sha512(meta.read_bytes()).hexdigest()}


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
