"""What an emitter sends: narrow-band FM, a carrier, OFDM or QPSK.

Each gives one period of an emission that repeats with the recording, as a spectrum of power 1 around its carrier. So a
delay of any fraction of a sample is exact, and an emission has no seam.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.simulation.limits import require, require_above_0

ROLL_OFF = 0.25
QPSK = (1, 1j, -1, -1j)
# IEEE Std 802.11, clause 17: 52 of 64 subcarriers without the middle one, and a prefix of a quarter.
FFT_SIZE, SUBCARRIERS, PREFIX = 64, 52, 16
LOWEST_AUDIO_HZ = 300.0
# A transmitter's limiter: speech is cut at this multiple of its effective value.
LIMITER = 1.5
# FM has no edge: what lies beyond the sampled band is cut off there, not folded into it.
OVERSAMPLING = 4

Spectrum = NDArray[np.complex128]


class Emitter(Protocol):
    """A kind of emission: what a scene needs to know of it, and its spectrum."""

    kind: ClassVar[str]

    @property
    def bandwidth_hz(self) -> float:
        """What it occupies, 0 for a carrier."""

    @property
    def shortest_s(self) -> float:
        """The shortest recording that holds one period of it."""

    def spectrum(self, samples: int, sample_rate_hz: float, rng: np.random.Generator) -> Spectrum:
        """The DFT, (samples,), of an emission with a mean power of 1."""


@dataclass(frozen=True, kw_only=True)
class Cw:
    """A carrier without modulation."""

    kind: ClassVar[str] = "cw"

    @property
    def bandwidth_hz(self) -> float:
        """A carrier occupies nothing."""
        return 0.0

    @property
    def shortest_s(self) -> float:
        """It has no period."""
        return 0.0

    def spectrum(self, samples: int, sample_rate_hz: float, rng: np.random.Generator) -> Spectrum:  # noqa: ARG002
        """The DFT of a constant, (samples,)."""
        found = np.zeros(samples, np.complex128)
        found[0] = samples
        return found


@dataclass(frozen=True, kw_only=True)
class Nbfm:
    """Narrow-band FM: `deviation_hz` at the peaks of noise from 300 Hz to `audio_hz`.

    The noise is flat, as speech is after pre-emphasis, and limited and filtered as a transmitter does. The bandwidth is
    Carson's rule, 2 (deviation + highest audio), 11 kHz by default: Carson, "Notes on the Theory of Modulation", Proc.
    IRE 10 (1922). A tone of the highest frequency has 98 % of its power in it; speech needs about half of it.
    """

    kind: ClassVar[str] = "nbfm"
    deviation_hz: float = 2_500.0
    audio_hz: float = 3_000.0

    def __post_init__(self) -> None:
        require_above_0("deviation", self.deviation_hz, "Hz")
        require("highest audio frequency", self.audio_hz, "Hz", 2 * LOWEST_AUDIO_HZ)

    @property
    def bandwidth_hz(self) -> float:
        """Carson's rule."""
        return 2 * (self.deviation_hz + self.audio_hz)

    @property
    def shortest_s(self) -> float:
        """One period of the highest audio frequency."""
        return 1 / self.audio_hz

    def spectrum(self, samples: int, sample_rate_hz: float, rng: np.random.Generator) -> Spectrum:
        """The DFT, (samples,), of a carrier that speech deviates."""
        count = OVERSAMPLING * samples
        period_s = samples / sample_rate_hz
        frequency = np.fft.rfftfreq(count, period_s / count)
        heard = (frequency >= LOWEST_AUDIO_HZ) & (frequency <= self.audio_hz)
        drawn = np.zeros(frequency.size, np.complex128)
        drawn[heard] = rng.standard_normal((int(heard.sum()), 2)).view(np.complex128)[:, 0]
        speech = np.fft.irfft(drawn, count)
        most = LIMITER * math.sqrt(float(np.mean(speech**2)))
        # Cutting makes harmonics, which a transmitter filters off again.
        limited = np.fft.irfft(np.where(heard, np.fft.rfft(np.clip(speech, -most, most)), 0), count)
        deviation_hz = limited * (self.deviation_hz / np.abs(limited).max())
        return _unit_power(_resampled(np.fft.fft(frequency_modulated(deviation_hz, period_s)), samples))


@dataclass(frozen=True, kw_only=True)
class Ofdm:
    """OFDM with a cyclic prefix: QPSK on 52 of 64 subcarriers, the middle one empty, a prefix of a quarter.

    These are the proportions of IEEE Std 802.11, clause 17, over `bandwidth_hz`. The spacing is changed by up to half
    a symbol in the recording, so that it holds whole symbols.
    """

    kind: ClassVar[str] = "ofdm"
    bandwidth_hz: float = 100e3

    def __post_init__(self) -> None:
        require_above_0("bandwidth", self.bandwidth_hz, "Hz")

    @property
    def shortest_s(self) -> float:
        """Ten symbols: their whole number then changes the bandwidth by a twentieth at most."""
        return 10 * self._symbol_s

    @property
    def _symbol_s(self) -> float:
        return (SUBCARRIERS + 1) / self.bandwidth_hz * (FFT_SIZE + PREFIX) / FFT_SIZE

    def spectrum(self, samples: int, sample_rate_hz: float, rng: np.random.Generator) -> Spectrum:
        """The DFT, (samples,), of whole symbols with their prefixes, at any sample rate."""
        symbols = round(samples / sample_rate_hz / self._symbol_s)
        grid = np.zeros((symbols, FFT_SIZE), np.complex128)
        half = SUBCARRIERS // 2
        grid[:, np.r_[1 : half + 1, -half:0]] = rng.choice(QPSK, (symbols, SUBCARRIERS))
        bodies = np.fft.ifft(grid)
        sent = np.concatenate([bodies[:, -PREFIX:], bodies], 1).ravel()
        return _unit_power(_resampled(np.fft.fft(sent), samples))


@dataclass(frozen=True, kw_only=True)
class Qpsk:
    """QPSK symbols, shaped by a root raised cosine with a roll-off of 0.25 into `bandwidth_hz`."""

    kind: ClassVar[str] = "qpsk"
    bandwidth_hz: float = 25e3

    def __post_init__(self) -> None:
        require_above_0("bandwidth", self.bandwidth_hz, "Hz")

    @property
    def shortest_s(self) -> float:
        """Ten symbols: their whole number then changes the bandwidth by a twentieth at most."""
        return 10 * (1 + ROLL_OFF) / self.bandwidth_hz

    def spectrum(self, samples: int, sample_rate_hz: float, rng: np.random.Generator) -> Spectrum:
        """The DFT, (samples,), with root-raised-cosine edges (cos of half the raised cosine's angle)."""
        # A whole number of symbols, so that the emission repeats without a seam.
        count = round(samples * self.bandwidth_hz / (1 + ROLL_OFF) / sample_rate_hz)
        symbols = rng.choice(QPSK, count)
        # Impulses between samples: their spectrum is that of the symbols, repeated.
        bins = np.fft.fftfreq(samples, 1 / samples).astype(int)
        in_symbol_rates = np.abs(bins) / count
        shape = np.clip((in_symbol_rates - (1 - ROLL_OFF) / 2) / ROLL_OFF, 0, 1)
        return _unit_power(np.fft.fft(symbols)[bins % count] * np.cos(np.pi / 2 * shape))


EMITTERS: Mapping[str, type[Nbfm] | type[Cw] | type[Ofdm] | type[Qpsk]] = {e.kind: e for e in (Nbfm, Cw, Ofdm, Qpsk)}


def frequency_modulated(deviation_hz: NDArray[np.float64], period_s: float) -> NDArray[np.complex128]:
    """exp(jφ), (samples,), with φ the integral of 2π times the deviation without its mean, over one period."""
    rates_hz = np.fft.rfftfreq(deviation_hz.size, period_s / deviation_hz.size)
    turns = np.fft.rfft(deviation_hz) / np.concatenate([[np.inf], 1j * rates_hz[1:]])
    envelope: NDArray[np.complex128] = np.exp(1j * np.fft.irfft(turns, deviation_hz.size))
    return envelope


def _resampled(spectrum: Spectrum, samples: int) -> Spectrum:
    """The spectrum of the same period with another number of samples: bins are added or cut off at its edges."""
    half = (min(spectrum.size, samples) - 1) // 2
    found = np.zeros(samples, np.complex128)
    found[: half + 1] = spectrum[: half + 1]
    found[samples - half :] = spectrum[spectrum.size - half :]
    return found


def _unit_power(spectrum: Spectrum) -> Spectrum:
    power = np.mean(np.abs(np.fft.ifft(spectrum)) ** 2)
    scaled: Spectrum = spectrum / math.sqrt(power)
    return scaled
