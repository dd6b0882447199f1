"""MelFeatures: raw IQ of one receiver to the mel spectrogram that LocalizationNet takes."""

import torch
from torch import Tensor, nn

from rfserve.export.networks.dft import Dft
from rfserve.export.networks.selection import where
from rfserve.export.networks.spectrum import HANN, cosine_window, slaney_mel_filters
from rfserve.export.spec.models.localization_net import MEL_BINS, MEL_FRAMES
from rfserve.export.spec.models.mel_features import MEL_FFT_SAMPLES

# Recordings come at any rate from kilohertz to megahertz. The filters divide the band 0 to half the sample rate as
# audio tools divide it at this rate, so that one picture has one meaning relative to the sample rate.
NOMINAL_RATE_HZ = 22050.0
RADICES = (16, 8, 8)
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
    frame: Tensor
    sample: Tensor

    def __init__(self) -> None:
        super().__init__()
        points, first = MEL_FFT_SAMPLES, RADICES[0]
        self.dft = Dft(*RADICES, window=cosine_window(points, HANN).numpy(), real=True)
        filters = slaney_mel_filters(filters=MEL_BINS, points=points, rate_hz=NOMINAL_RATE_HZ)
        self.register_buffer("filters", _by_result(filters, self.dft.bins, points), persistent=False)
        # The samples of a frame in the order that the transform takes them, for each frame.
        order = torch.arange(points).reshape(first, -1).T.reshape(-1, 1)
        self.register_buffer("sample", order, persistent=False)
        self.register_buffer("frame", torch.arange(MEL_FRAMES), persistent=False)

    def forward(self, raw_iq: Tensor) -> Tensor:
        """Raw IQ (batch, 2, S), full scale, S from 1024, to the spectrogram (batch, 3, 128, 32) in dB.

        A row with a number that is not finite is NaN throughout; other rows are not affected.
        """
        iq = raw_iq.to(torch.float64)
        sound = (iq * iq).sum((1, 2)) <= LARGEST_POWER
        iq = where(sound.reshape(-1, 1, 1), iq, 0.0)
        magnitude = (iq * iq).sum(1, keepdim=True).sqrt()
        power = self._power(torch.cat([iq, magnitude], 1))
        mel = torch.matmul(self.filters, power).reshape(MEL_BINS, MEL_FRAMES, -1, 3).permute(2, 3, 0, 1)
        loudest = mel.flatten(2).amax(-1).clamp(min=TINY).reshape(-1, 3, 1, 1)
        decibels = 10 * torch.log10((mel / loudest).clamp(min=10 ** (-DYNAMIC_RANGE_DB / 10)))
        decibels = decibels.clamp(max=0.0).to(torch.float32)
        answer = where(sound.reshape(-1, 1, 1, 1), decibels, torch.nan)
        # The exporter cannot see the sizes through the matrix products.
        return answer.reshape(raw_iq.shape[0], 3, MEL_BINS, MEL_FRAMES)

    def _power(self, channels: Tensor) -> Tensor:
        """(batch, 3, S) to the power of the transform's results, (results, 32 · batch · 3)."""
        span = channels.shape[-1] - MEL_FFT_SAMPLES
        # Half a step more and then the floor is rounding; in integers, so that every runtime agrees.
        starts = torch.div(self.frame * (2 * span) + (MEL_FRAMES - 1), 2 * (MEL_FRAMES - 1), rounding_mode="floor")
        # Samples first: they are picked for all channels at once, and come as the transform wants them.
        picked = channels.flatten(0, 1).transpose(0, 1).index_select(0, (self.sample + starts).flatten())
        return self.dft.power(self.dft(picked.reshape(MEL_FFT_SAMPLES // RADICES[0], 1, RADICES[0], -1)))


def _by_result(filters: Tensor, bins: Tensor, points: int) -> Tensor:
    """Filters (filters, points / 2 + 1) for results that come in the order of `bins`: each bin counts once."""
    folded = torch.minimum(bins, points - bins)
    return filters[:, folded] / folded.bincount()[folded]
