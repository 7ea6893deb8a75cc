"""CutMix: a box of every image replaced by that of another one of its batch, the labels blended by area."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eclipse.defenses.defense import Defense
from eclipse.defenses.mixup import blend_labels, check_concentration, draw_share
from eclipse.errors import EclipseError


@dataclass(frozen=True)
class CutMix(Defense):
    """Boxes of other images (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019).

    With probability p a batch is mixed: the box has a share 1 - s of the area, s ~ Beta(beta, beta), and a uniform
    center, and is clipped at the borders; it is pasted, at the same place, from the image at the same row of a random
    permutation of the batch. The labels are weighted by the area of the box that is really there. This is the
    flavor of its authors, with their p for CIFAR. The code of ISS and AVATAR draws partners from the whole set and
    pastes up to two boxes, whose weights forget that they overlap. Left out: the authors' box loses a pixel of each
    odd side, because they halve it twice, and their coordinates need a type that NumPy no longer has.

    Attributes:
        p: probability that a batch is mixed.
        beta: of the Beta distribution; 1 makes s uniform.
    """

    title: ClassVar[str] = "boxes of other images"
    acts: ClassVar[str] = "batches"
    p: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_concentration("CutMix beta", self.beta)
        if not 0 <= self.p <= 1:
            raise EclipseError(f"CutMix probability {self.p:g}; expected 0 to 1, such as the default 0.5")

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Paste a box into each image, or leave the batch as it is."""
        if float(torch.rand(())) >= self.p:
            return x, y
        partners = torch.randperm(len(x), device=x.device)
        height, width = x.shape[2:]
        side = math.sqrt(1 - draw_share(self.beta))
        rows, columns = _interval(height, side), _interval(width, side)
        mixed = x.clone()
        mixed[:, :, rows, columns] = x[partners, :, rows, columns]
        box = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, blend_labels(y, partners, 1 - box / (height * width), num_classes)


def _interval(length: int, share: float) -> slice:
    """A share of a line around a random center, as much of it as is within the line."""
    size = int(length * share)
    first = int(torch.randint(length, ())) - size // 2
    return slice(max(0, first), min(length, first + size))
