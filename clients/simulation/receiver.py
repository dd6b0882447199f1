"""What a receiver makes of what reaches it: delay, oscillator error, gain and rounding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.errors import ClientError
from rfserve.clients.simulation.limits import require
from rfserve.clients.simulation.noise import sum_dbm

MOST_BITS = 16
# A receiver's gain leaves this much above the mean power: eight standard deviations of Gaussian noise, and more than
# the peaks of these emissions in it.
HEADROOM_DB = 15.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """What all receivers of a scene have in common.

    `oscillator_ppm` is the greatest error of an oscillator, uniformly distributed; it moves the tuning, not the sample
    rate (1 ppm of 16,384 samples is 0.016 of one). `clock_error_s` is the standard deviation of a receiver's clock from
    UTC. `full_scale_dbm` is the power of a full-scale tone at the antenna; None has each receiver set its gain in
    whole decibels, 15 dB above what it receives.
    """

    noise_figure_db: float = 6.0
    antenna_gain_dbi: float = 0.0
    oscillator_ppm: float = 0.5
    clock_error_s: float = 0.0
    full_scale_dbm: float | None = None
    bits: int = MOST_BITS

    def __post_init__(self) -> None:
        require("noise figure", self.noise_figure_db, "dB", 0.0, 60.0)
        require("antenna gain", self.antenna_gain_dbi, "dBi", -60.0, 60.0)
        require("oscillator", self.oscillator_ppm, "ppm", 0.0, 1000.0)
        require("clock error", self.clock_error_s, "s", 0.0, 1.0)
        if self.full_scale_dbm is not None:
            require("full scale", self.full_scale_dbm, "dBm", -200.0, 100.0)
        if self.bits not in range(4, MOST_BITS + 1):
            raise ClientError(f"bits: got {self.bits}; expected 4 to {MOST_BITS}")


def automatic_full_scale_dbm(rss_dbm: Floats, thermal_dbm: float) -> Floats:
    """The full scale that a receiver's gain control chooses: whole decibels, 15 above the mean power, or a bit more."""
    chosen: Floats = np.ceil(sum_dbm(rss_dbm, thermal_dbm) + HEADROOM_DB)
    return chosen


def delayed(
    spectrum: NDArray[np.complex128], delay_s: float, *, sample_rate_hz: float, carrier_hz: float = 0.0
) -> NDArray[np.complex128]:
    """An emission after a delay of any fraction of a sample, by the shift theorem, the carrier's phase included."""
    frequency = carrier_hz + np.fft.fftfreq(spectrum.size, 1 / sample_rate_hz)
    return np.fft.ifft(spectrum * np.exp(-2j * np.pi * frequency * delay_s))


def quantised(iq: NDArray[np.complex128], bits: int, name: str, full_scale_dbm: float) -> NDArray[np.complex64]:
    """Rounded to steps of 2^(1 - bits), 1.0 = full scale. `ClientError` when a sample is beyond what a step reaches."""
    steps = 2.0 ** (bits - 1)
    parts = np.round(iq.view(np.float64) * steps)
    if parts.max() > steps - 1 or parts.min() < -steps:
        over_db = 20 * np.log10(np.abs(parts).max() / (steps - 1))
        raise ClientError(
            f"{name}: its samples pass its full scale, {full_scale_dbm:g} dBm, by {over_db:.1f} dB; expected none to: "
            f"give a full scale of {np.ceil(full_scale_dbm + over_db + 1):g} dBm, or none to have its gain set"
        )
    iq_of_steps: NDArray[np.complex64] = (parts / steps).view(np.complex128).astype(np.complex64)
    return iq_of_steps
