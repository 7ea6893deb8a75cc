"""Cutout: a black square at a random place of every image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError


@dataclass(frozen=True)
class Cutout(Defense):
    """Black squares (DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017).

    The center of the square is uniform over the pixels of an image and the square is clipped at the borders, so that
    what is cut is often smaller. Every image of every batch is cut, all channels at one place. Black is 0 on the
    [0, 1] scale, as the benchmarks of poisons have it; the authors cut after normalization, where 0 is the mean color.

    Attributes:
        share: side of the square as a share of the shorter side of the images: 16 pixels at 32x32.
    """

    title: ClassVar[str] = "a black square in each image"
    acts: ClassVar[str] = "batches"
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise EclipseError(
                f"Cutout share {self.share:g}; expected more than 0 and up to 1, such as the default 0.5"
            )

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Cut a square out of each image."""
        height, width = x.shape[2:]
        side = max(1, round(self.share * min(height, width)))
        rows, columns = _cut(len(x), height, side, x.device), _cut(len(x), width, side, x.device)
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0), y


def _cut(n: int, length: int, side: int, device: torch.device) -> Tensor:
    """Which places of a line are within a random interval, for n lines, bool, (n, length)."""
    first = torch.randint(length, (n, 1), device=device) - side // 2
    places = torch.arange(length, device=device)
    return (places >= first) & (places < first + side)
