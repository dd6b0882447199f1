"""What one receiver saw: IQ samples, where, when and how they were taken."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.errors import ObservationError, PositionInvalid

UNNAMED = "receiver"
# The Dead Sea's shore and a high balloon are within.
LOWEST_M, HIGHEST_M = -1_000.0, 100_000.0
# Integers that were not divided by their full scale reach 32767 or more; float recordings pass 1.0 by little.
LARGEST_SAMPLE = 1_000.0


def check_position(name: str, latitude_deg: float, longitude_deg: float) -> None:
    """`PositionInvalid` unless this can be where a receiver stands."""
    if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):
        swapped = abs(longitude_deg) <= 90 and abs(latitude_deg) <= 180
        hint = "they look swapped: " if swapped else ""
        raise PositionInvalid(
            f"{name}: got latitude {latitude_deg:g}°, longitude {longitude_deg:g}°; expected -90 to 90 and -180 to 180 "
            f"({hint}SigMF writes [longitude, latitude])"
        )
    if latitude_deg == 0 and longitude_deg == 0:
        raise PositionInvalid(
            f"{name}: got latitude 0°, longitude 0°, which receivers write when they have no fix; give the position"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """One receiver's samples of an event.

    `iq` is complex (samples,), 1.0 = full scale. `start_ns` is the UTC time of sample 0 in ns since 1970, None when
    unknown. `altitude_m` is 0 when unknown. `full_scale_dbm` is the power of a full-scale tone at the antenna; None
    means uncalibrated, and the noise density is then in dBFS/Hz. `receiver_id` picks the receiver's calibration in the
    network, 0 to 9; None takes the place in the list. Raises `ObservationError` for numbers that cannot be.
    """

    iq: NDArray[np.complex64] = field(repr=False)
    sample_rate_hz: float
    center_frequency_hz: float
    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0
    start_ns: int | None = None
    receiver_id: int | None = None
    name: str = UNNAMED
    full_scale_dbm: float | None = None
    clock_locked: bool = True

    def __post_init__(self) -> None:
        check_position(self.name, self.latitude_deg, self.longitude_deg)
        iq: NDArray[Any] = np.asarray(self.iq)
        if iq.ndim != 1 or not np.iscomplexobj(iq) or iq.size == 0:
            raise ObservationError(
                f"{self.name}: got iq {iq.dtype} {iq.shape}; expected complex samples in one dimension"
            )
        bad = int(iq.size - np.isfinite(iq).sum())
        if bad:
            raise ObservationError(f"{self.name}: {bad} of {iq.size} samples are not finite; cut them out")
        largest = float(np.max(np.abs(iq)))
        if largest == 0:
            raise ObservationError(f"{self.name}: every sample is zero; is the receiver connected? leave it out")
        if largest > LARGEST_SAMPLE:
            raise ObservationError(
                f"{self.name}: got samples up to {largest:g}; expected 1.0 = full scale: divide integers by theirs"
            )
        if not (math.isfinite(self.sample_rate_hz) and self.sample_rate_hz > 0):
            raise ObservationError(f"{self.name}: got sample rate {self.sample_rate_hz} Hz; expected above 0")
        if not (math.isfinite(self.center_frequency_hz) and self.center_frequency_hz >= 0):
            raise ObservationError(f"{self.name}: got centre frequency {self.center_frequency_hz} Hz; expected from 0")
        if not LOWEST_M <= self.altitude_m <= HIGHEST_M:
            raise ObservationError(
                f"{self.name}: got altitude {self.altitude_m} m; expected {LOWEST_M:g} to {HIGHEST_M:g} m"
            )
        if not math.isfinite(self.full_scale_dbm or 0.0):
            raise ObservationError(f"{self.name}: got full scale {self.full_scale_dbm} dBm; expected a finite number")
        if self.receiver_id is not None and self.receiver_id < 0:
            raise ObservationError(f"{self.name}: got receiver id {self.receiver_id}; expected 0 to 9, or None")
