"""IqFeatures: raw IQ of the receivers to the window and the features that the HeimdallNets take."""

import torch
from torch import Tensor, nn

from rfserve.export.networks.receiver_encoder import FEATURES, ActiveRows
from rfserve.export.networks.selection import where
from rfserve.export.networks.welch import HOP, SEGMENT, FrequencyOffset, NoiseFloor, ShortTimeSpectrum
from rfserve.export.spec.models.heimdall_net import WINDOW_SAMPLES

SNR_MINIMUM_DB, SNR_MAXIMUM_DB = -20.0, 100.0
PSD_MINIMUM_DBFS_HZ = -200.0
# Windows within a millionth of the strongest count as equal, and the first of them is taken: a constant envelope
# would otherwise leave the choice to rounding.
SCORE_STEPS = 2.0**20
LARGEST = 1e300
TINY = 1e-300


class IqFeatures(nn.Module):
    """One window for all receivers of a row, and SNR, noise PSD and frequency offset of each receiver.

    - Window: 1024 samples from the sample, a multiple of 256 and the same at every receiver, where the sum over the
      active receivers of power relative to the receiver's mean is greatest. Amplitudes stay as they came.
    - SNR, dB: mean power of the whole recording without noise, over the noise power in the receiver's own passband;
      -20 to 100. A pulse's peak stands above it by the inverse of its duty cycle.
    - Noise PSD, dBm/Hz (dBFS/Hz when `full_scale_dbm` is 0): in that passband, while the emission is quietest;
      at least -200 below full scale. See `NoiseFloor`.
    - Frequency offset from the centre frequency, Hz: of the carrier, or the spectral centroid. See `FrequencyOffset`.

    What limits them: a noise floor needs segments of 512 samples, a twentieth of the recording's, without emission, or
    half of the passband; keyed or modulated emissions that leave neither give an SNR that is too low. A passband
    narrower than 6 % of the sample rate cannot be told from an emission, nor an emission 50 dB above the noise in each
    hertz from a passband. A receiver's spike at its centre frequency is a carrier like any other. Samples beyond the
    last multiple of 256 count for the mean power only.
    """

    sample: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = ShortTimeSpectrum()
        self.noise_floor = NoiseFloor(self.spectrum.bins)
        self.frequency_offset = FrequencyOffset(self.spectrum.bins)
        self.register_buffer("sample", torch.arange(WINDOW_SAMPLES), persistent=False)

    def forward(
        self, raw_iq: Tensor, sample_rate_hz: Tensor, full_scale_dbm: Tensor, receiver_positions: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`raw_iq` (batch, R, 2, S) with S from 1024, rates and full scales (batch, R), positions (batch, R, 3), mask.

        Returns `iq_data` (batch, R, 2, 1024) and `features` (batch, R, 6): SNR, noise PSD, frequency offset, position.
        Both are 0 where the mask is False, whatever stands there, and NaN for an active receiver with a number that is
        not finite or a sample rate that is not above 0.
        """
        rows = ActiveRows(mask)
        iq = rows.gather(raw_iq)
        rate = rows.gather(sample_rate_hz.unsqueeze(-1)).squeeze(-1).to(torch.float64)
        scale = rows.gather(full_scale_dbm.unsqueeze(-1)).squeeze(-1).to(torch.float64)
        positions = rows.gather(receiver_positions)
        blocks = iq[:, :, : HOP * (iq.shape[-1] // HOP)].reshape(iq.shape[0], 2, -1, HOP)
        energy = _energy(blocks).sum(-1).sum(1)
        beyond = self.sample[:HOP] >= HOP - iq.shape[-1] % HOP
        total = energy.sum(-1) + where(beyond, _energy(iq[:, :, -HOP:]).sum(1), 0.0).sum(-1)
        # Sums carry NaN and infinity in every runtime; maxima do not.
        others = scale.abs() + positions.to(torch.float64).abs().sum(-1)
        sound = (total <= LARGEST) & (others <= LARGEST) & (rate > 0) & (rate <= LARGEST)
        usable = rows.scatter(sound) & mask
        samples = torch.ones_like(iq[:1, :1]).sum(-1).squeeze(-1).to(torch.float64)
        power = where(sound, total, 0.0) / samples
        start = self._window(where(sound.unsqueeze(-1), energy, 0.0), rows, usable)
        blocks = where(sound.reshape(-1, 1, 1, 1), blocks, 0.0)
        measured = self._measure(blocks, power, where(sound, rate, 1.0), scale)
        features = rows.scatter(torch.cat([measured, positions], -1))
        index = (start.reshape(-1, 1, 1, 1) + self.sample).expand(-1, raw_iq.shape[1], 2, -1)
        window = _select(raw_iq.gather(-1, index), usable, mask)
        # The reshapes tell the exporter the sizes that it cannot see through gather and where.
        slots = (mask.shape[0], mask.shape[1])
        return window.reshape(*slots, 2, WINDOW_SAMPLES), _select(features, usable, mask).reshape(*slots, FEATURES)

    def _window(self, energy: Tensor, rows: ActiveRows, usable: Tensor) -> Tensor:
        """Energy of each block of 256 samples, (n, blocks), to each row's first sample, (batch, 1)."""
        relative = rows.scatter(energy / energy.mean(-1, keepdim=True).clamp(min=TINY))
        summed = where(usable.unsqueeze(-1), relative, 0.0).sum(1)
        score = summed[:, :-3] + summed[:, 1:-2] + summed[:, 2:-1] + summed[:, 3:]
        return (score * SCORE_STEPS).round().argmax(-1, keepdim=True) * HOP

    def _measure(self, blocks: Tensor, power: Tensor, rate_hz: Tensor, full_scale_dbm: Tensor) -> Tensor:
        """SNR, noise PSD and frequency offset, (n, 3) FP32, of blocks FP32 (n, 2, blocks, 256) and power FP64 (n)."""
        spectra = self.spectrum(blocks)
        density = self.spectrum.density(spectra)
        mean = density.mean(-1).transpose(0, 1)
        noise, passband, peak = self.noise_floor(density, mean)
        noise_power = noise * passband.to(noise.dtype).sum(-1) / SEGMENT
        signal = (power - noise_power).clamp(min=0.0)
        lowest, highest = 10 ** (SNR_MINIMUM_DB / 10), 10 ** (SNR_MAXIMUM_DB / 10)
        snr = (signal / noise_power.clamp(min=TINY)).clamp(lowest, highest)
        psd = (noise / rate_hz).clamp(min=10 ** (PSD_MINIMUM_DBFS_HZ / 10))
        strongest = self.spectrum.at(spectra, peak)
        offset = self.frequency_offset(strongest, mean, noise, passband, peak, signal)
        columns = [10 * torch.log10(snr), 10 * torch.log10(psd) + full_scale_dbm, offset * rate_hz]
        return torch.stack(columns, -1).to(torch.float32)


def _energy(iq: Tensor) -> Tensor:
    """FP32 to squares in FP64."""
    wide = iq.to(torch.float64)
    return wide * wide


def _select(values: Tensor, usable: Tensor, mask: Tensor) -> Tensor:
    """`values` (batch, R, …) where usable, NaN where active but not usable, 0 where inactive."""
    shape = (*mask.shape, *([1] * (values.ndim - 2)))
    active = where(usable.reshape(shape), values, torch.nan)
    return where(mask.reshape(shape), active, 0.0)
