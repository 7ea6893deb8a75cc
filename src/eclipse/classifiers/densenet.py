"""DenseNet (Huang et al., CVPR 2017): each layer takes what all layers before it in its stage have made."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.resnet import LARGE, stem

GROWTH = 32  # channels that a layer adds
LAYERS = (6, 12, 24, 16)  # a stage, in DenseNet-121


class Layer(nn.Module):
    """BatchNorm, ReLU and a 1x1 convolution, then the same with a 3x3 one; its output is joined to its input."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, 4 * GROWTH, 1, bias=False),
            nn.BatchNorm2d(4 * GROWTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the new channels before those of x."""
        return torch.cat([self.layers(x), x], dim=1)


def _transition(before: int) -> nn.Sequential:
    """Halve the channels and the resolution."""
    convolution = nn.Conv2d(before, before // 2, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(inplace=True), convolution, nn.AvgPool2d(2))


class DenseNet(Classifier):
    """DenseNet-121 for images of any size; from 96 pixels a side on with the stem of ImageNet.

    Args:
        num_classes: logits.
        channels: image channels.
        side: the shorter side of the images.
    """

    def __init__(self, num_classes: int, channels: int, side: int) -> None:
        super().__init__()
        width = 2 * GROWTH
        # For small images the usual form begins with a bare convolution.
        small = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem(channels, width, side) if side >= LARGE else small]
        for stage, count in enumerate(LAYERS):
            if stage:
                layers.append(_transition(width))
                width //= 2
            layers += [Layer(width + i * GROWTH) for i in range(count)]
            width += count * GROWTH
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width))
        self.head = nn.Linear(width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features after global average pooling, (B, 1024)."""
        return F.relu(cast(Tensor, self.layers(x))).mean(dim=(2, 3))


def densenet121(num_classes: int, channels: int = 3, side: int = 32) -> DenseNet:
    """DenseNet-121: 6,956,298 parameters for 10 classes."""
    return DenseNet(num_classes, channels, side)
