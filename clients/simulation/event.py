"""A simulated scene as files, which every command that reads recordings takes."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.clients import receivers, sigmf_event
from rfserve.clients.sigmf_event import Stream
from rfserve.clients.simulation.scene import Scene
from rfserve.clients.simulation.simulator import Received, simulate

RECEIVERS_FILE = "receivers.csv"
STORED_STEPS = 2.0**15


def write(scene: Scene, folder: Path) -> Path:
    """Write the scene as a SigMF collection; the collection's path.

    Beside it are `truth.json` and a receivers file with each full scale, which SigMF has no field for: with
    `--receivers`, noise densities are in dBm/Hz. The samples are those of `simulate`, bit for bit. Files of an earlier
    event are replaced. `ClientError` when the folder cannot be written.
    """
    received = simulate(scene)
    streams = [
        Stream(
            name=station.name,
            position=station.position,
            pairs=(iq.view(np.float32).reshape(-1, 2) * STORED_STEPS).astype(np.int16),
        )
        for station, iq in zip(received.stations, received.iq, strict=True)
    ]
    return sigmf_event.write(
        folder,
        streams,
        sample_rate_hz=scene.sample_rate_hz,
        center_frequency_hz=scene.center_frequency_hz,
        truth=_truth(scene, received, streams),
        beside={RECEIVERS_FILE: _receivers(received)},
    )


def _truth(scene: Scene, received: Received, streams: list[Stream]) -> dict[str, Any]:
    made = asdict(scene)
    made["emitter"] = {"kind": scene.emitter.kind, "bandwidth_hz": scene.emitter.bandwidth_hz} | made["emitter"]
    place = received.emitter_at
    return {
        "event": "simulated",
        "emitter": {"lat": place.latitude_deg, "lon": place.longitude_deg, "alt_m": place.altitude_m},
        "center_frequency_hz": scene.center_frequency_hz,
        "simultaneous": True,
        "receivers": [_receiver(received, number, stream) for number, stream in enumerate(streams)],
        "scene": made,
    }


def _receiver(received: Received, number: int, stream: Stream) -> dict[str, Any]:
    place = stream.position
    columns = {
        "distance_km": received.distance_m / 1000,
        "delay_us": received.delay_s * 1e6,
        "snr_db": received.snr_db,
        "carrier_offset_hz": received.offset_hz,
        "rss_dbm": received.rss_dbm,
        "noise_dbm": received.noise_dbm,
        "path_loss_db": received.path_loss_db,
        "shadowing_db": received.shadowing_db,
        "oscillator_ppm": received.oscillator_ppm,
        "clock_error_us": received.clock_error_s * 1e6,
        "full_scale_dbm": received.full_scale_dbm,
    }
    names = {"id": stream.name, "recording": stream.stem}
    where = {"lat": place.latitude_deg, "lon": place.longitude_deg, "alt_m": place.altitude_m}
    return names | where | {name: float(column[number]) for name, column in columns.items()}


def _receivers(received: Received) -> str:
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(receivers.COLUMNS)
    for station, full_scale_dbm in zip(received.stations, received.full_scale_dbm, strict=True):
        place = station.position
        number = "" if station.receiver_id is None else station.receiver_id
        where = (place.latitude_deg, place.longitude_deg, place.altitude_m)
        rows.writerow((station.name, *where, number, float(full_scale_dbm)))
    return file.getvalue()
