"""ResNet in its CIFAR form (He et al., CVPR 2016): a 3x3 stem at full resolution and no pooling before the blocks.

The stem matters for attacks: with the 7x7 stem of ImageNet, an EM surrogate gives a weak poison.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.victims.classifier import Classifier

WIDTHS = (64, 128, 256, 512)


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


class ResNet(Classifier):
    """Four stages of basic blocks, each halving the resolution but the first, then global average pooling.

    Args:
        blocks: basic blocks a stage.
        num_classes: logits.
        channels: image channels.
    """

    def __init__(self, blocks: Sequence[int], num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = _norm(channels, WIDTHS[0], 3)
        before, layers = WIDTHS[0], []
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            for i in range(count):
                layers.append(BasicBlock(before, width, stride=2 if stage and not i else 1))
                before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features after global average pooling, (B, 512)."""
        return cast(Tensor, self.layers(F.relu(self.stem(x)))).mean(dim=(2, 3))


def resnet18(num_classes: int, channels: int = 3) -> ResNet:
    """ResNet-18: 11,173,962 parameters for 10 classes, 0.56 GMAC for a 32x32 image. Takes images as they are."""
    return ResNet((2, 2, 2, 2), num_classes, channels)
