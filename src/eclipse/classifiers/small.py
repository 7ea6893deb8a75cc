"""A small CIFAR-stem network for processors without a GPU: about 8 million multiply-adds for a 32x32 image."""

import torch
from torch import Tensor, nn

from eclipse.classifiers.classifier import Classifier
from eclipse.errors import EclipseError

WIDTHS = (24, 48, 96, 192)
SMALLEST = 2 ** len(WIDTHS)  # pixels a side; each layer halves them


class SmallNet(Classifier):
    """Four convolutions, each followed by max pooling, BatchNorm and ReLU, then global pooling and a linear layer.

    Full resolution in the first layer, as attacks and defenses on small images need it. Takes [0, 1] images
    (B, C, H, W) of 16x16 and up.
    """

    def __init__(self, num_classes: int, channels: int = 3, side: int = 32) -> None:
        super().__init__()
        _check_side(side)
        layers: list[nn.Module] = []
        before = channels
        for width in WIDTHS:
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features before the linear layer, (B, 192)."""
        _check_side(min(x.shape[2:]))
        return torch.amax(self.features((x - 0.5) / 0.25), dim=(2, 3))


def _check_side(side: int) -> None:
    if side < SMALLEST:
        raise EclipseError(f"images of {side} pixels a side; this network takes {SMALLEST} and up: enlarge them")
