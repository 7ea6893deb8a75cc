"""ResNet (He et al., CVPR 2016), for small images with a 3x3 stem at full resolution and no pooling before the blocks.

The stem matters for attacks: with the 7x7 stem of ImageNet on 32x32, an EM surrogate gives a weak poison.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.classifiers.classifier import Classifier

WIDTHS = (64, 128, 256, 512)
LARGE = 96  # pixels a side, from which on the stem of ImageNet is the usual one


def _norm(before: int, width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _norm(before, width, 3, stride)
        self.second = _norm(width, width, 3)
        self.shortcut = _norm(before, width, 1, stride) if stride > 1 or before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum of both paths."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, the last four times as wide, and a shortcut as in ``BasicBlock``."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _norm(before, width, 1)
        self.second = _norm(width, width, 3, stride)
        self.third = _norm(width, 4 * width, 1)
        self.shortcut = _norm(before, 4 * width, 1, stride) if stride > 1 or before != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum of both paths."""
        return F.relu(self.third(F.relu(self.second(F.relu(self.first(x))))) + self.shortcut(x))


class ResNet(Classifier):
    """Four stages of blocks, each halving the resolution but the first, then global average pooling.

    Args:
        block: the kind of block.
        blocks: how many a stage.
        num_classes: logits.
        channels: image channels.
        side: the shorter side of the images; from ``LARGE`` on, the stem is that of ImageNet.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], blocks: Sequence[int], num_classes: int, channels: int, side: int
    ) -> None:
        super().__init__()
        self.stem = stem(channels, WIDTHS[0], side)
        before, layers = WIDTHS[0], []
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            for i in range(count):
                layers.append(block(before, width, stride=2 if stage and not i else 1))
                before = width * (4 if block is Bottleneck else 1)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features after global average pooling, (B, 512) or (B, 2048)."""
        return cast(Tensor, self.layers(self.stem(x))).mean(dim=(2, 3))


def stem(channels: int, width: int, side: int) -> nn.Sequential:
    """The first layers: full resolution for small images, a quarter of it for those of ``LARGE`` pixels a side."""
    if side < LARGE:
        return nn.Sequential(*_norm(channels, width, 3), nn.ReLU(inplace=True))
    return nn.Sequential(*_norm(channels, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1))


def resnet18(num_classes: int, channels: int = 3, side: int = 32) -> ResNet:
    """ResNet-18: 11,173,962 parameters for 10 classes, 0.56 GMAC for a 32x32 image. Takes images as they are."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, channels, side)


def resnet50(num_classes: int, channels: int = 3, side: int = 32) -> ResNet:
    """ResNet-50: 23,520,842 parameters for 10 classes. Takes images as they are."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, channels, side)
