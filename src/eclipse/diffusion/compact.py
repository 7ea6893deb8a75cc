"""A compact U-Net of our own: fully convolutional, no normalization, made for low noise levels on a CPU.

Why not a smaller UNet2DModel: group normalization and attention tie the output to the image's size and cost more
memory traffic than arithmetic on a CPU (docs/log has the measurements). Without them the answer for a pixel
depends on its surroundings alone, so the network takes any size, and large images can be cut into tiles.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block of two 3x3 convolutions, with the noise level added to its hidden channels."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.level = nn.Linear(time_width, width)
        _zero(self.conv2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Return x plus a learned correction."""
        h = F.relu(self.conv1(x) + self.level(emb)[:, :, None, None], inplace=True)
        return x + cast(Tensor, self.conv2(h))


class CompactUNet(nn.Module):
    """Predict the noise in images of any size; parameters by ``widths``, one entry a resolution level.

    Args:
        widths: channels at full, half, quarter resolution and so on.
        blocks: residual blocks a level, on the way down and again on the way up (in the middle in a row).
        channels: image channels.

    Attributes:
        multiple: images are padded to multiples of this size.
        margin: no pixel's answer depends on pixels farther away than this, a multiple of ``multiple``: see ``tiling``.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        # 3x3 convolutions: stem and head, and four a block of a level (down and up), each as wide as its pixels are.
        # The change of resolution adds where in its coarse pixel a fine one lies.
        reach = 2 + sum(4 * count * 2**level for level, count in enumerate(blocks)) + self.multiple - 1
        self.margin = math.ceil(reach / self.multiple) * self.multiple
        time_width = 64
        self.embed = nn.Sequential(nn.Linear(32, time_width), nn.ReLU(), nn.Linear(time_width, time_width), nn.ReLU())
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        levels = [(w, time_width, count) for w, count in zip(widths, blocks, strict=True)]
        self.down = nn.ModuleList(_blocks(*level) for level in levels[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.middle = _blocks(widths[-1], time_width, 2 * blocks[-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.up = nn.ModuleList(_blocks(*level) for level in reversed(levels[:-1]))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        _zero(self.head)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Predict the noise in x, (B, C, H, W) on [-1, 1], at float times (B,) on the scale of 0 to 1000."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        emb = cast(Tensor, self.embed(sinusoidal(time).to(x.dtype)))
        h = self.stem(x)
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = _through(blocks, h, emb)
            skips.append(h)
            h = shrink(h)
        h = _through(self.middle, h, emb)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            h = _through(blocks, grow(h) + skips.pop(), emb)
        return cast(Tensor, self.head(h)[:, :, :height, :width])


def sinusoidal(time: Tensor) -> Tensor:
    """Embed times in 32 cosines and sines of geometrically spaced periods, (B, 32)."""
    freqs = torch.exp(-math.log(1000.0) * torch.arange(16, device=time.device) / 16)
    angles = time.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def build(options: Mapping[str, Any]) -> CompactUNet:
    """Build the network from its saved options."""
    return CompactUNet(**options)


def _blocks(width: int, time_width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, time_width) for _ in range(count))


def _through(blocks: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for block in cast(nn.ModuleList, blocks):
        h = block(h, emb)
    return h


def _zero(convolution: nn.Conv2d) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
