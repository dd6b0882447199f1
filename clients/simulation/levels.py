"""What reaches each receiver of a scene, without a sample of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.formats.reading import Position
from rfserve.clients.simulation import noise, placement
from rfserve.clients.simulation.placement import Station
from rfserve.clients.simulation.propagation import SPEED_OF_LIGHT_M_S
from rfserve.clients.simulation.receiver import automatic_full_scale_dbm
from rfserve.clients.simulation.scene import Scene

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """The truth of a scene; arrays are FP64 (receivers,).

    `path_loss_db` is the mean loss over `distance_m`, `shadowing_db` what its path has on top, `rss_dbm` the mean power
    that is left. `noise_dbm` is thermal and rounding noise over the sampled band, `snr_db` the one over the other.
    `offset_hz` is the carrier from the centre of the recording, `oscillator_ppm` the error that moves it (above 0:
    tuned too high). `delay_s` is the path's, `clock_error_s` how far a receiver's clock is ahead of UTC.
    """

    emitter_at: Position
    stations: tuple[Station, ...]
    distance_m: Floats
    delay_s: Floats
    path_loss_db: Floats
    shadowing_db: Floats
    rss_dbm: Floats
    full_scale_dbm: Floats
    thermal_dbm: float
    noise_dbm: Floats
    snr_db: Floats
    oscillator_ppm: Floats
    offset_hz: Floats
    clock_error_s: Floats

    @property
    def names(self) -> tuple[str, ...]:
        """The receivers' names."""
        return tuple(s.name for s in self.stations)

    @property
    def positions(self) -> Floats:
        """Latitude °, longitude °, altitude m of each receiver, (receivers, 3)."""
        places = (s.position for s in self.stations)
        return np.array([(p.latitude_deg, p.longitude_deg, p.altitude_m) for p in places])


def levels(scene: Scene) -> Levels:
    """Places, levels and errors of a scene; `simulate` gives samples that have them."""
    front_end, count = scene.front_end, scene.count
    stations, emitter_at = _places(scene)
    distance_m = np.array([placement.line_of_sight_m(emitter_at, s.position) for s in stations])
    path_loss_db = scene.path.mean_db(distance_m, scene.center_frequency_hz)
    shadowing_db = scene.path.shadowing_of(scene.generator("shadowing"), count)
    rss_dbm = scene.eirp_dbm + front_end.antenna_gain_dbi - path_loss_db - shadowing_db
    thermal_dbm = noise.thermal_dbm(scene.sample_rate_hz, front_end.noise_figure_db)
    full_scale_dbm = _full_scales(scene, stations, rss_dbm, thermal_dbm)
    noise_dbm = noise.sum_dbm(thermal_dbm, noise.quantisation_dbm(full_scale_dbm, front_end.bits))
    oscillator_ppm = front_end.oscillator_ppm * scene.generator("oscillators").uniform(-1, 1, count)
    return Levels(
        emitter_at=emitter_at,
        stations=stations,
        distance_m=distance_m,
        delay_s=distance_m / SPEED_OF_LIGHT_M_S,
        path_loss_db=path_loss_db,
        shadowing_db=shadowing_db,
        rss_dbm=rss_dbm,
        full_scale_dbm=full_scale_dbm,
        thermal_dbm=thermal_dbm,
        noise_dbm=noise_dbm,
        snr_db=rss_dbm - noise_dbm,
        oscillator_ppm=oscillator_ppm,
        offset_hz=scene.emitter_offset_hz - oscillator_ppm * 1e-6 * scene.center_frequency_hz,
        clock_error_s=front_end.clock_error_s * scene.generator("clocks").standard_normal(count),
    )


def _places(scene: Scene) -> tuple[tuple[Station, ...], Position]:
    if isinstance(scene.receivers, int):
        places = placement.drawn(scene.generator("receivers"), scene.receivers, scene.middle, scene.radius_m)
        stations = tuple(Station(name=f"R{n}", position=p) for n, p in enumerate(places, start=1))
    else:
        stations = scene.receivers
    if scene.emitter_at is not None:
        return stations, scene.emitter_at
    (drawn,) = placement.drawn(scene.generator("emitter"), 1, scene.middle, scene.radius_m)
    return stations, drawn


def _full_scales(scene: Scene, stations: tuple[Station, ...], rss_dbm: Floats, thermal_dbm: float) -> Floats:
    """The station's own full scale, else that of all, else what its gain control chooses."""
    automatic = automatic_full_scale_dbm(rss_dbm, thermal_dbm)
    known = [scene.front_end.full_scale_dbm if s.full_scale_dbm is None else s.full_scale_dbm for s in stations]
    return np.array([chosen if own is None else own for own, chosen in zip(known, automatic, strict=True)])
