"""OP: what a linear classifier sees is projected out of the images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from eclipse.classifiers.fit import Recipe, fit
from eclipse.compute.device import seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import as_tensor, quantize, to_unit
from eclipse.defenses.cutmix import CutMix
from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError, require
from eclipse.runs.state import Work

ROWS = 1024  # projected at once


@dataclass(frozen=True)
class OP(Defense):
    """Orthogonal projection (Sandoval-Segura et al., "What Can We Learn from Unlearnable Datasets?", NeurIPS 2023).

    A linear classifier without bias is trained on the raw [0, 1] pixels, with SGD without momentum whose rate falls
    tenfold after 1/2 and 3/4 of the epochs. Its K weight vectors span a space with an orthonormal basis q_1 ... q_K
    (QR; the original normalizes them before, which leaves the space as it is), and each image becomes
    x - sum_k (x . q_k) q_k. One direction a class goes, so there must be fewer classes than values of an image.

    The authors' own training adds a strong augmentation, a field here. They apply it before the crop, and this package
    after it. Two more differences are on purpose: the result is clipped and rounded to 8 bits, where the original
    keeps floats outside of [0, 1] (on CIFAR-10 about 2 % of the values, and clipping moves them little); and images are
    visited in a new random order in each epoch, where the original keeps the stored one, which would show one class at
    a time on a set that is sorted by class. Left out: a picture of the weights that wants ten classes of 3x32x32.

    Attributes:
        lr: first learning rate of the linear classifier.
        epochs: of its training.
        batch: images a step of it. A small set needs small batches for as many steps as 50,000 images give.
        extra_augmentation: rotation by up to 10 degrees, shear by up to 10, scale 0.8 to 1.2, both nearest-neighbor,
            brightness, contrast and (of RGB) saturation by up to 20 %, then CutMix on half of the batches.
    """

    title: ClassVar[str] = "orthogonal projection"
    acts: ClassVar[str] = "data, batches"
    small: ClassVar[dict[str, Any]] = {"batch": 128}
    lr: float = 0.1
    epochs: int = 20
    batch: int = 1024
    extra_augmentation: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise EclipseError(f"OP learning rate {self.lr:g}; expected more than 0, such as the default 0.1")
        for name, value in (("epochs", self.epochs), ("batch", self.batch)):
            if not isinstance(value, int) or value < 1:
                raise EclipseError(f"OP {name} {value}; expected a whole number of 1 or more")

    @property
    def package(self) -> tuple[str, str] | None:
        """Kornia, for the extra augmentation."""
        return ("kornia", "defenses") if self.extra_augmentation else None

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Project what a linear classifier of these images looks at out of them."""
        data.require_labels("the defense OP")
        values = math.prod(data.images.shape[1:])
        if not 2 <= data.num_classes < values:
            raise EclipseError(
                f"{data.num_classes} classes of images of {values} values for OP, which removes one direction a class; "
                "expected 2 classes or more, and more values than classes"
            )
        basis = orthonormal(self._weights(data, work))
        projected = np.empty_like(data.images)
        for first in range(0, len(data), ROWS):
            rows = slice(first, first + ROWS)
            x = to_unit(as_tensor(data.images[rows]).to(work.device))
            projected[rows] = quantize(project(x, basis)).cpu().numpy()
        return data.with_images(projected)

    def preparation(self) -> Mapping[str, Any]:
        """What decides the projection: all fields but the augmentation."""
        return {"defense": "OP", "lr": self.lr, "epochs": self.epochs, "batch": self.batch}

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Apply the extra augmentation, if it is on."""
        if not self.extra_augmentation:
            return x, y
        return CutMix(p=0.5, beta=1.0).augment(_distortion(x.shape[1] == 3)(x), y, num_classes)

    def _weights(self, data: ImageSet, work: Work) -> Tensor:
        """The weights of a linear classifier of the images, (classes, values)."""
        with seeded(work.seed, "op"):
            layer = nn.Linear(math.prod(data.images.shape[1:]), data.num_classes, bias=False)
        recipe = Recipe(self.epochs, self.batch, self.lr, momentum=0.0, pad=0, flip=False, milestones=(0.5, 0.75))
        for epoch in fit(nn.Sequential(nn.Flatten(), layer), data, recipe, seed=work.seed, device=work.device):
            work.state.tell("linear classifier", epoch.epoch, self.epochs, accuracy=epoch.train_accuracy)
        return layer.weight.detach()


def orthonormal(weights: Tensor) -> Tensor:
    """An orthonormal basis of the space that weight vectors span, (K, D) like them."""
    basis: Tensor = torch.linalg.qr(weights.double().T.cpu())[0]
    return basis.T.to(weights)


def project(x: Tensor, basis: Tensor) -> Tensor:
    """Remove from images their components along an orthonormal basis.

    Args:
        x: (B, C, H, W).
        basis: (K, C*H*W).
    """
    flat = x.flatten(1)
    return (flat - flat @ basis.T @ basis).reshape(x.shape)


@cache
def _distortion(color: bool) -> nn.Module:
    augmentation = require("kornia.augmentation", "defenses")
    return nn.Sequential(
        augmentation.RandomRotation(10.0, resample="nearest", p=1.0),
        augmentation.RandomAffine(0.0, shear=10.0, scale=(0.8, 1.2), resample="nearest", p=1.0),
        augmentation.ColorJitter(0.2, 0.2, 0.2 if color else 0.0, p=1.0),
    )
