"""The IQ encoder of the HeimdallNets: an EfficientNet-like stack of MBConv blocks over time.

Two orders of the same parameters:

- `heimdall-1.0`: what Heimdall 1.0 computes. The first block averages over time before its projection, so every later
  block sees one sample; there the depthwise output goes to the projection without BatchNorm and SiLU, which feed the
  squeeze-and-excitation branch only.
- `mbconv`: the order of MobileNetV3 and EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946, section 4).
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEIMDALL_1_0 = "heimdall-1.0"
MBCONV = "mbconv"
ENCODER_ORDERS = (HEIMDALL_1_0, MBCONV)

STEM_CHANNELS = 32
HEAD_CHANNELS = 192


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Channels, expansion and stride of one MBConv block."""

    channels_in: int
    channels_out: int
    expansion: int
    stride: int

    @property
    def residual(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.channels_in == self.channels_out


BLOCKS = tuple(
    BlockShape(channels_in=i, channels_out=o, expansion=e, stride=s)
    for i, o, e, s in (
        (32, 16, 1, 1),
        (16, 24, 6, 2),
        (24, 24, 6, 1),
        (24, 40, 6, 2),
        (40, 40, 6, 1),
        (40, 80, 6, 2),
        (80, 80, 6, 1),
        (80, 80, 6, 1),
        (80, 112, 6, 1),
        (112, 112, 6, 1),
    )
)


class TimeConv(nn.Conv1d):
    """A 1-D convolution over time, written as a (1, k) 2-D one.

    ONNX Runtime has blocked kernels for 2-D convolutions only (`make bench` prints the gain). Parameters keep the 1-D
    shapes of the checkpoint. `as_2d = False` computes the plain 1-D convolution, for comparison.
    """

    as_2d = True

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, channels, 1, samples); or (n, channels, samples) when `as_2d` is off."""
        if not self.as_2d:
            return super().forward(x)
        stride, padding = self.stride[0], int(self.padding[0])
        weight = self.weight.unsqueeze(2)
        return F.conv2d(x, weight, None, (1, stride), (0, padding), groups=self.groups)


class ChannelNorm(nn.BatchNorm1d):
    """BatchNorm over the channels of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept every rank: the time axis may have been averaged away, or stand in a 2-D layout."""


class TimeMean(nn.Module):
    """Mean over time: (n, channels, …, samples) to (n, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average the last axis."""
        return x.mean(-1).flatten(1)


def _conv(channels_in: int, channels_out: int, width: int, *, stride: int = 1, groups: int = 1) -> TimeConv:
    return TimeConv(channels_in, channels_out, width, stride=stride, padding=width // 2, groups=groups, bias=False)


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A width-1 convolution of (n, channels): one matrix product."""
    return F.linear(x, cast(TimeConv, conv).weight.squeeze(-1))


def _scale_channels(x: Tensor, factors: Tensor) -> Tensor:
    return x * factors.reshape(*factors.shape, *([1] * (x.dim() - 2)))


class MBConvBlock(nn.Module):
    """One block. Its parameters carry the names that Heimdall gives them, which follow from where it cuts its list."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        inner = shape.channels_in * shape.expansion
        reduced = max(1, shape.channels_in // 4)
        depthwise = _conv(inner, inner, 3, stride=shape.stride, groups=inner)
        excite = [nn.Linear(inner, reduced), nn.SiLU(), nn.Linear(reduced, inner), nn.Sigmoid()]
        if shape.expansion == 1:
            self.conv_block = nn.Sequential(depthwise, ChannelNorm(inner), nn.SiLU(), TimeMean())
            self.se_block = nn.Sequential(nn.Identity(), *excite)
        else:
            expand = [_conv(shape.channels_in, inner, 1), ChannelNorm(inner), nn.SiLU()]
            self.conv_block = nn.Sequential(*expand, depthwise)
            self.se_block = nn.Sequential(ChannelNorm(inner), nn.SiLU(), TimeMean(), nn.Identity(), *excite)
        self.project = nn.Sequential(_conv(inner, shape.channels_out, 1), ChannelNorm(shape.channels_out))

    def heimdall(self, x: Tensor) -> Tensor:
        """The order of Heimdall 1.0. Expansion 1: (n, c, …, samples) to (n, c'); later blocks: (n, c) to (n, c')."""
        if self.shape.expansion == 1:
            mean = self.conv_block(x)
            out: Tensor = self.project[1](_pointwise(self.project[0], mean * self.se_block(mean)))
            return out
        wide = self.conv_block[2](self.conv_block[1](_pointwise(self.conv_block[0], x)))
        # One sample between two padded zeros meets the middle tap alone.
        depthwise = cast(TimeConv, self.conv_block[3])
        wide = wide * depthwise.weight[:, 0, 1]
        # A Sequential would average over a time axis that is gone.
        excited = self.se_block[4:](self.se_block[1](self.se_block[0](wide)))
        out = self.project[1](_pointwise(self.project[0], wide * excited))
        return x + out if self.shape.residual else out

    def mbconv(self, x: Tensor) -> Tensor:
        """The MBConv order: (n, c, …, samples) to (n, c', …, samples / stride)."""
        if self.shape.expansion == 1:
            wide = self.conv_block[:3](x)
            factors = self.se_block(self.conv_block[3](wide))
        else:
            wide = self.se_block[:2](self.conv_block(x))
            factors = self.se_block[2:](wide)
        out: Tensor = self.project(_scale_channels(wide, factors))
        return x + out if self.shape.residual else out


class IqEncoder(nn.Module):
    """IQ (n, 2, samples) FP32 to an embedding (n, 256) FP32. Every row is computed by itself."""

    def __init__(self, order: str = MBCONV, width: int = 256) -> None:
        super().__init__()
        if order not in ENCODER_ORDERS:
            raise ValueError(f"encoder order: got {order!r}; expected one of {', '.join(ENCODER_ORDERS)}")
        self.order = order
        self.stem = nn.Sequential(_conv(2, STEM_CHANNELS, 3, stride=2), ChannelNorm(STEM_CHANNELS), nn.SiLU())
        self.blocks = nn.ModuleList(MBConvBlock(shape) for shape in BLOCKS)
        self.head = nn.Sequential(
            _conv(BLOCKS[-1].channels_out, HEAD_CHANNELS, 1),
            ChannelNorm(HEAD_CHANNELS),
            nn.SiLU(),
            TimeMean(),
            nn.Identity(),
            nn.Linear(HEAD_CHANNELS, width),
        )
        self.width = width
        self._is_silent = False

    def silence(self) -> None:
        """Answer zeros whatever is sent, in training and from the saved weights; nothing in it is learned any more."""
        with torch.no_grad():
            for parameter in self.head[-1].parameters():
                parameter.zero_()
        self.requires_grad_(requires_grad=False)
        self._is_silent = True

    def forward(self, iq: Tensor) -> Tensor:
        """Encode each row of (n, 2, samples)."""
        if self._is_silent:
            return iq.new_zeros(iq.shape[0], self.width)
        blocks = [cast(MBConvBlock, block) for block in self.blocks]
        x = self.stem(iq.unsqueeze(2) if TimeConv.as_2d else iq)
        if self.order == MBCONV:
            for block in blocks:
                x = block.mbconv(x)
            out: Tensor = self.head(x)
            return out
        for block in blocks:
            x = block.heimdall(x)
        x = self.head[2](self.head[1](_pointwise(self.head[0], x)))
        last: Tensor = self.head[5](x)
        return last


def initialise(module: nn.Module, seed: int) -> None:
    """Give a new network PyTorch's default random weights, the same for the same seed on every run."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
