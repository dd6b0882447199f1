"""MelFeatures: raw IQ of one receiver to the mel spectrogram that LocalizationNet takes."""

import torch
from torch import Tensor, nn

from rfserve.export.networks.selection import where
from rfserve.export.networks.spectrum import HANN, Dft, cosine_window, slaney_mel_filters
from rfserve.export.spec.models.localization_net import MEL_BINS, MEL_FRAMES
from rfserve.export.spec.models.mel_features import MEL_FFT_SAMPLES

# Recordings come at any rate from kilohertz to megahertz. The filters divide the band 0 to half the sample rate as
# audio tools divide it at this rate, so that one picture has one meaning relative to the sample rate.
NOMINAL_RATE_HZ = 22050.0
DYNAMIC_RANGE_DB = 80.0
# Below any power that FP32 samples can give; keeps a silent channel out of 0/0.
TINY = 1e-300
LARGEST_POWER = 1e300


class MelFeatures(nn.Module):
    """Mel spectrograms of I, of Q and of the magnitude, in dB relative to each channel's own maximum, -80 to 0.

    32 Hann frames of 1024 samples (for S < 32 · 1024 they overlap); frame i starts at round(i · (S - 1024) / 31), so
    that they span the recording whatever its length, without padding. Power spectrum, 128 Slaney mel filters laid out
    for a nominal rate of 22,050 Hz, then `librosa.power_to_db(ref=max, top_db=80)`, except that a silent channel is
    -80 everywhere and that no absolute floor (`amin`) hides weak recordings.
    """

    filters: Tensor
    window: Tensor
    frame: Tensor
    sample: Tensor

    def __init__(self) -> None:
        super().__init__()
        points = MEL_FFT_SAMPLES
        self.dft = Dft(rows=32, columns=points // 32)
        filters = slaney_mel_filters(filters=MEL_BINS, points=points, rate_hz=NOMINAL_RATE_HZ)
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", cosine_window(points, HANN), persistent=False)
        self.register_buffer("frame", torch.arange(MEL_FRAMES).unsqueeze(1), persistent=False)
        self.register_buffer("sample", torch.arange(points), persistent=False)

    def forward(self, raw_iq: Tensor) -> Tensor:
        """Raw IQ (batch, 2, S), full scale, S from 1024, to the spectrogram (batch, 3, 128, 32) in dB.

        A row with a number that is not finite is NaN throughout; other rows are not affected.
        """
        iq = raw_iq.to(torch.float64)
        sound = (iq * iq).sum((1, 2)) <= LARGEST_POWER
        iq = where(sound.reshape(-1, 1, 1), iq, 0.0)
        magnitude = (iq * iq).sum(1, keepdim=True).sqrt()
        power = self._power(torch.cat([iq, magnitude], 1))
        mel = torch.matmul(power, self.filters).reshape(-1, 3, MEL_FRAMES, MEL_BINS).transpose(2, 3)
        loudest = mel.flatten(2).amax(-1).clamp(min=TINY).reshape(-1, 3, 1, 1)
        decibels = 10 * torch.log10((mel / loudest).clamp(min=10 ** (-DYNAMIC_RANGE_DB / 10)))
        decibels = decibels.clamp(max=0.0).to(torch.float32)
        answer = where(sound.reshape(-1, 1, 1, 1), decibels, torch.nan)
        # The exporter cannot see the sizes through the matrix products.
        return answer.reshape(raw_iq.shape[0], 3, MEL_BINS, MEL_FRAMES)

    def _power(self, channels: Tensor) -> Tensor:
        """(batch, 3, S) to the power of the bins 0 to 512 of each frame, (batch · 3 · 32, 513)."""
        span = channels.shape[-1] - MEL_FFT_SAMPLES
        # Half a step more and then the floor is rounding; in integers, so that every runtime agrees.
        starts = torch.div(self.frame * (2 * span) + (MEL_FRAMES - 1), 2 * (MEL_FRAMES - 1), rounding_mode="floor")
        picked = channels.index_select(-1, (starts + self.sample).flatten())
        frames = picked.reshape(-1, 1, MEL_FFT_SAMPLES) * self.window
        re, im = self.dft(torch.cat([frames, torch.zeros_like(frames)], 1))
        half = MEL_FFT_SAMPLES // 2 + 1
        power: Tensor = re[:, :half] ** 2 + im[:, :half] ** 2
        return power
