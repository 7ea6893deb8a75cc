"""What a classifier is, and the table of them: victims, surrogates of attacks and networks of defenses alike."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from eclipse.registry import Registry


class Classifier(nn.Module, ABC):
    """A network that maps [0, 1] images (B, C, H, W) to logits (B, num_classes).

    Normalization is inside, so that perturbation radii are always in pixels. The last layer is ``head``, and what
    it takes is the embedding, so that attacks and defenses can work on features.
    """

    head: nn.Linear

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Return the features before the last layer, (B, F)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of [0, 1] images."""
        return cast(Tensor, self.head(self.embed(x)))


CLASSIFIERS: Registry[Callable[[int, int, int], Classifier]] = Registry(
    "classifier",
    "eclipse.victims",
    {
        "small": "eclipse.classifiers.small:SmallNet",
        "resnet18": "eclipse.classifiers.resnet:resnet18",
        "resnet50": "eclipse.classifiers.resnet:resnet50",
        "vgg16": "eclipse.classifiers.vgg:vgg16",
        "vgg19": "eclipse.classifiers.vgg:vgg19",
        "densenet121": "eclipse.classifiers.densenet:densenet121",
    },
    files=True,
)


def make_classifier(name: str, num_classes: int, channels: int = 3, side: int = 32) -> Classifier:
    """Build a classifier by its name in ``CLASSIFIERS``, with weights from torch's global generator.

    Args:
        name: of the network.
        num_classes: logits.
        channels: image channels.
        side: the shorter side of the images in pixels, which decides the first layers.

    Raises:
        EclipseError: no such network, or images that are too small for it.
    """
    make = CLASSIFIERS.load(name)
    with CLASSIFIERS.blaming(name):
        network = make(num_classes, channels, side)
        if not isinstance(network, Classifier):
            raise TypeError("it builds no eclipse.classifiers.Classifier")
    return network
