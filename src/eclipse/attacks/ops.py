"""OPS: one-pixel shortcut."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.attacks.attack import Attack, check_classes
from eclipse.data.changes import chunks
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

# On the [0, 1] scale; what one image among millions causes is more. It makes pixels comparable that are constant.
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class OPS(Attack):
    """One-pixel shortcut (Wu, Chen, Xie and Huang, ICLR 2023, arXiv 2205.12141).

    All images of a class get one pixel of one color, a corner of the color cube: the position p and color v with
    the largest mean |v - x_p| / std |v - x_p| over images and channels that no class before it has taken. A
    position may serve two classes in two colors. Nothing bounds how far that pixel moves.

    Left out of the authors' code on purpose: ten classes and square images are hard-coded; a pixel that is the
    same in a whole class (the border of MNIST) scores 0/0, wins, and changes nothing; of k pixels two may fall on
    one position; the image is truncated to whole levels.

    Attributes:
        radius: how many pixels of each image are replaced (the authors' sparsity).
    """

    title: ClassVar[str] = "one pixel a class"
    family: ClassVar[str] = "synthetic"
    norm: ClassVar[str] = "L0"
    radius: int = 1

    def __post_init__(self) -> None:
        if self.radius < 1 or self.radius != int(self.radius):
            raise EclipseError(f"OPS radius of {self.radius:g} pixels; expected a whole number, 1 or more")

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Replace the pixels of every class, which the set alone decides; needs neither seed nor device."""
        check_classes("OPS", clean)
        labels = clean.require_labels("OPS")
        poisoned = clean.images.copy()
        taken: set[int] = set()
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            for color, y, x in self._shortcuts(clean.images[rows], taken):
                poisoned[rows, :, y, x] = color
        return clean.with_images(poisoned)

    def _shortcuts(self, images: NDArray[np.uint8], taken: set[int]) -> list[tuple[NDArray[np.uint8], int, int]]:
        """The best pairs of color and position for the images of a class, which become taken."""
        channels, height, width = images.shape[1:]
        colors = _corners(channels)
        chosen: dict[int, int] = {}  # from position to pair
        for pair in np.argsort(-_scores(images, colors), axis=None, kind="stable").tolist():
            if pair not in taken and pair % (height * width) not in chosen:
                chosen[pair % (height * width)] = pair
            if len(chosen) == self.radius:
                break
        else:
            raise EclipseError(
                f"OPS with {self.radius} pixels an image runs out of pixels and colors on images of {height}x{width}; "
                "expected fewer pixels, fewer classes or larger images"
            )
        taken.update(chosen.values())
        return [(255 * colors[pair // (height * width)], *divmod(p, width)) for p, pair in chosen.items()]


def _corners(channels: int) -> NDArray[np.uint8]:
    """The colors whose channels are all 0 or 1, (2^C, C)."""
    return np.array(list(product((0, 1), repeat=channels)), np.uint8)


def _scores(images: NDArray[np.uint8], colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean over standard deviation of |color - image|, over images and channels, (2^C, H, W)."""
    mean, square = _moments(images)
    flipped = colors[:, :, None, None] == 1
    first = np.where(flipped, 1 - mean, mean).mean(axis=1)
    second = np.where(flipped, 1 - 2 * mean + square, square).mean(axis=1)
    deviation = np.sqrt(np.maximum(second - np.square(first), 0))
    scores: NDArray[np.float64] = first / np.maximum(deviation, _LEAST_DEVIATION)
    return scores


def _moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and the mean square of each value on the [0, 1] scale, from exact sums, (C, H, W)."""
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros_like(total)
    for rows in chunks(images):
        total += images[rows].sum(axis=0, dtype=np.int64)
        squares += np.square(images[rows], dtype=np.uint16).sum(axis=0, dtype=np.int64)
    return total / (255 * len(images)), squares / (255**2 * len(images))
