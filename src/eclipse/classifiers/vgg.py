"""VGG with BatchNorm (Simonyan and Zisserman, ICLR 2015) in its CIFAR form: one linear layer after the convolutions."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from eclipse.classifiers.classifier import Classifier
from eclipse.errors import EclipseError

WIDTHS = (64, 128, 256, 512, 512)
SMALLEST = 2 ** len(WIDTHS)  # pixels a side; each stage halves them


class VGG(Classifier):
    """Five stages of 3x3 convolutions, each followed by max pooling, then the mean over all places.

    At 32x32 one place is left, as in the usual CIFAR form; larger images are averaged over their places.

    Args:
        convolutions: how many a stage.
        num_classes: logits.
        channels: image channels.
        side: the shorter side of the images, at least 32 pixels.
    """

    def __init__(self, convolutions: Sequence[int], num_classes: int, channels: int, side: int) -> None:
        super().__init__()
        if side < SMALLEST:
            raise EclipseError(f"images of {side} pixels a side; VGG takes {SMALLEST} and up: enlarge them")
        before, layers = channels, list[nn.Module]()
        for width, count in zip(WIDTHS, convolutions, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features after global average pooling, (B, 512)."""
        return cast(Tensor, self.layers(x)).mean(dim=(2, 3))


def vgg16(num_classes: int, channels: int = 3, side: int = 32) -> VGG:
    """VGG-16: 14,728,266 parameters for 10 classes."""
    return VGG((2, 2, 3, 3, 3), num_classes, channels, side)


def vgg19(num_classes: int, channels: int = 3, side: int = 32) -> VGG:
    """VGG-19: 20,040,522 parameters for 10 classes."""
    return VGG((2, 2, 4, 4, 4), num_classes, channels, side)
