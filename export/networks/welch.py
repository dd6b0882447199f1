"""Noise floor, power and frequency of recordings from their short-time spectrum; FP64, rows independent."""

import math

import torch
from torch import Tensor, nn

from rfserve.export.networks.dft import Dft
from rfserve.export.networks.selection import where
from rfserve.export.networks.spectrum import BLACKMAN_HARRIS, cosine_window

SEGMENT = 512
HOP = SEGMENT // 2
RADICES = (8, 8, 8)
# Bins less than this below the reference belong to the receiver's passband; the reference is the level that the
# strongest 4 % of the bins reach, which the main lobes of one or two carriers do not fill.
PASSBAND_DB = 50.0
REFERENCE_BINS = SEGMENT // 25 + 1
# Bins more than 7 dB below the floor are the filter's skirts: they count neither for the floor nor for the bandwidth.
SKIRT = 5.0
# Half the main lobe of the window is 4 bins; one more for a carrier between two.
LOBE = 5
# Segments up to 4 dB above the quiet ones count fully, from 6 dB not at all. The slope keeps the result continuous.
QUIET_QUANTILE = 0.05
QUIET_DB, LOUD_DB = 4.0, 6.0
# A carrier: 10 dB above the noise in its bin, half of the signal's power, coherent over half of the recording.
CARRIER_OVER_NOISE = 10.0
CARRIER_SHARE = 0.5
CARRIER_COHERENCE = 0.5
# Below this multiple of the noise the centroid takes a bin for noise: an average of three reaches 3.3 by chance.
CENTROID_OVER_NOISE = 4.0
ZOOM = 1024
ZOOM_RADICES = (16, 8, 8)
TINY = 1e-300
NEPER = 10 / math.log(10)


class ShortTimeSpectrum(nn.Module):
    """Complex spectra of half-overlapping segments of 512 samples under a Blackman-Harris window.

    Scaled so that the power of a bin is a density: its sum over the bins, times the bin width, is the power
    (Welch, IEEE Trans. Audio Electroacoust. 15 (1967), in cycles per sample). Bins come in the order of `bins` INT64
    (512): bin k is k/512 cycles a sample. Time is the last axis, which is what the products of the transform want.
    """

    def __init__(self) -> None:
        super().__init__()
        window = cosine_window(SEGMENT, BLACKMAN_HARRIS)
        self.dft = Dft(*RADICES, window=(window / window.square().sum().sqrt()).numpy())

    @property
    def bins(self) -> Tensor:
        """The order in which bins come."""
        return self.dft.bins

    def forward(self, blocks: Tensor) -> Tensor:
        """Blocks FP32 (n, 2, blocks, 256) to spectra FP64 (groups, 2, 8, n, blocks - 1), real part first."""
        first = RADICES[0]
        # A segment's points a are those of two blocks, one after the other.
        halves = blocks.transpose(2, 3).reshape(blocks.shape[0], 2, first // 2, SEGMENT // first, -1)
        ordered = halves.permute(3, 1, 2, 0, 4)
        segments = torch.cat([ordered[..., :-1], ordered[..., 1:]], 2).to(torch.float64)
        spectra: Tensor = self.dft(segments.flatten(3))
        return spectra.reshape(*spectra.shape[:3], blocks.shape[0], -1)

    def density(self, spectra: Tensor) -> Tensor:
        """Power (512, n, segments) of spectra."""
        return self.dft.power(spectra)

    @staticmethod
    def at(spectra: Tensor, place: Tensor) -> Tensor:
        """Real and imaginary part (n, 2, segments) of the bin at a place (n, 1) in the order of `bins`."""
        last = spectra.shape[2]
        flat = spectra.flatten(0, 2)
        group = torch.div(place, last, rounding_mode="floor")
        real = place + group * last
        index = torch.stack([real, real + last]).expand(-1, -1, flat.shape[-1])
        return flat.gather(0, index).transpose(0, 1)


class NoiseFloor(nn.Module):
    """The noise density in the receiver's own passband, from the time when the emission is quietest.

    1. Passband: the time average of the logarithm of the density, which bursts hardly move, within 50 dB of what its
       strongest 4 % reach. A channel filter's stop band (KiwiSDR: 60 dB down) is left out that way.
    2. Quiet time: segments by their mean logarithm over the passband without the strongest line. Those near the
       lowest twentieth count (minimum statistics, Martin, IEEE Trans. Speech Audio Process. 9 (2001), with levels kept
       so close that stationary noise counts entirely, and needs no bias correction).
    3. Median over those bins of the quiet time's mean density, so that other lines in less than half of the passband
       do not count, divided by the median of a chi-squared variable of as many degrees (Wilson and Hilferty, PNAS 17
       (1931)). Bins 7 dB below it are the channel filter's skirts: the passband and a second median leave them out.
    """

    bins: Tensor

    def __init__(self, bins: Tensor) -> None:
        """`bins`: the order in which bins come."""
        super().__init__()
        self.register_buffer("bins", bins, persistent=False)

    def forward(self, density: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise density (n), passband (n, 512) and the place of the strongest bin (n, 1).

        Of the density (512, n, segments) and its mean (n, 512) over the segments.
        """
        logarithm = density.clamp(min=TINY).log()
        level = logarithm.mean(-1).transpose(0, 1)
        reference = level.topk(REFERENCE_BINS, -1).values[:, -1:]
        passband = level >= reference - PASSBAND_DB / NEPER
        peak = mean.argmax(-1, keepdim=True)
        away = (self.bins - self.bins[peak]).abs()
        line = torch.minimum(away, SEGMENT - away) <= LOBE
        noisy = passband & ~line
        share = noisy.to(density.dtype)
        count = share.sum(-1, keepdim=True)
        quiet = self._quiet((logarithm * share.transpose(0, 1).unsqueeze(-1)).sum(0) / count)
        weight = quiet / quiet.sum(-1, keepdim=True)
        floor = (density * weight).sum(-1).transpose(0, 1)
        averages = 1 / weight.square().sum(-1)
        median, held = self._median_without_skirts(floor, noisy)
        return median / (1 - 1 / (9 * averages)) ** 3, passband & held, peak

    @staticmethod
    def _median_without_skirts(floor: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """The second median (n) of the `noisy` bins, and which bins (n, 512) it did not leave out for the first."""
        ascending = torch.where(noisy, floor, torch.full_like(floor, torch.inf)).sort(-1).values
        used = noisy.to(torch.int64).sum(-1, keepdim=True)
        held = floor >= _median(ascending, torch.zeros_like(used), used) / SKIRT
        # Those left out are the smallest, so one order serves both medians.
        skirts = (noisy & ~held).to(torch.int64).sum(-1, keepdim=True)
        return _median(ascending, skirts, used - skirts).squeeze(-1), held

    def _quiet(self, level: Tensor) -> Tensor:
        """Level of each segment in nepers of power, (n, segments), to its weight, 0 to 1."""
        ascending = level.sort(-1).values
        position = torch.ones_like(level[:1]).sum(-1) * QUIET_QUANTILE - QUIET_QUANTILE
        below = position.floor()
        low = ascending.index_select(-1, below.to(torch.int64))
        high = ascending.index_select(-1, position.ceil().to(torch.int64))
        quantile = low + (high - low) * (position - below)
        above_db = (level - quantile) * NEPER
        return ((LOUD_DB - above_db) / (LOUD_DB - QUIET_DB)).clamp(0.0, 1.0)


class FrequencyOffset(nn.Module):
    """The frequency of the carrier, or the centroid of the spectrum above the noise when there is no carrier.

    The spectra's peak bin is a band-limited signal of one sample a hop. Its Hann-weighted DFT, zero-padded to 1024
    points, has the carrier at a peak that a parabola through the logarithms of three points locates (Smith, Spectral
    Audio Signal Processing, "Quadratic interpolation of spectral peaks"); the peak bin resolves the ambiguity.
    """

    cycles: Tensor
    around: Tensor
    ascending: Tensor

    def __init__(self, bins: Tensor) -> None:
        """`bins`: the order in which bins come."""
        super().__init__()
        self.dft = Dft(*ZOOM_RADICES)
        self.register_buffer("ascending", self.dft.bins.argsort(), persistent=False)
        cycles = bins.to(torch.float64) / SEGMENT
        self.register_buffer("cycles", torch.where(cycles < 0.5, cycles, cycles - 1), persistent=False)
        self.register_buffer("around", torch.tensor([[ZOOM - 1, 0, 1]]), persistent=False)

    def forward(  # noqa: PLR0917
        self, strongest: Tensor, mean: Tensor, noise: Tensor, passband: Tensor, peak: Tensor, power: Tensor
    ) -> Tensor:
        """Offsets in cycles a sample, (n). 0 when neither a carrier nor anything above the noise is found.

        `strongest` (n, 2, segments) is the spectra's bin at `peak` (n, 1); `mean` (n, 512), `noise` (n) and `passband`
        (n, 512) are of the same spectra, and `power` (n) is that of the signal without noise.
        """
        precise, coherence = self._zoom(strongest)
        coarse = self.cycles[peak.squeeze(1)]
        hops = HOP * coarse - precise
        carrier = (hops.round() + precise) / HOP
        above = mean - noise.unsqueeze(-1)
        away = (self.cycles - coarse.unsqueeze(-1)).abs()
        lobe = torch.minimum(away, 1 - away) <= LOBE / SEGMENT
        held = where(lobe, above, 0.0).sum(-1) / SEGMENT
        height = mean.gather(-1, peak).squeeze(-1)
        clear = (
            (height >= CARRIER_OVER_NOISE * noise) & (held >= CARRIER_SHARE * power) & (coherence >= CARRIER_COHERENCE)
        )
        parts = (mean - CENTROID_OVER_NOISE * noise.unsqueeze(-1)).clamp(min=0.0) * passband.to(mean.dtype)
        centroid = (parts * self.cycles).sum(-1) / parts.sum(-1).clamp(min=TINY)
        # A carrier just below half the sample rate may be found just above it, which is the same frequency.
        carrier = carrier - (carrier >= 0.5).to(carrier.dtype) + (carrier < -0.5).to(carrier.dtype)
        return torch.where(clear, carrier, centroid)

    def _zoom(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """One bin over time, (n, 2, segments), to its frequency in cycles a hop, -0.5 to 0.5, and coherence, 0 to 1."""
        index = torch.ones_like(pair[:1, 0]).cumsum(-1)
        count = torch.ones_like(pair[:1, 0]).sum(-1, keepdim=True)
        window = 0.5 - 0.5 * torch.cos(2 * math.pi * (index - 0.5) / count)
        padded = nn.functional.pad(pair * window, (0, ZOOM))[:, :, :ZOOM]
        first = ZOOM_RADICES[0]
        spectra = self.dft(padded.reshape(-1, 2, first, ZOOM // first).permute(3, 1, 2, 0))
        power = self.dft.power(spectra).index_select(0, self.ascending).transpose(0, 1)
        top = power.argmax(-1, keepdim=True)
        height = power.gather(-1, top).squeeze(-1)
        left, middle, right = power.gather(-1, (top + self.around) % ZOOM).clamp(min=TINY).log().unbind(-1)
        curvature = left - 2 * middle + right
        curved = curvature < 0
        shift = 0.5 * (left - right) / where(curved, curvature, -1.0)
        place = (top.squeeze(-1) + where(curved, shift, 0.0).clamp(-0.5, 0.5)) / ZOOM
        energy = ((pair**2).sum(1) * window).sum(-1) * window.sum(-1)
        return place - (place >= 0.5).to(place.dtype), height / energy.clamp(min=TINY)


def _median(ascending: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """The median of `size` values, at least one, from `begin` on: (n, values), (n, 1), (n, 1) to (n, 1)."""
    low = ascending.gather(-1, begin + torch.div(size - 1, 2, rounding_mode="floor"))
    high = ascending.gather(-1, begin + torch.div(size, 2, rounding_mode="floor"))
    return (low + high) / 2
