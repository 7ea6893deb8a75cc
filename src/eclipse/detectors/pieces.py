"""Pieces of images that detectors look at, of one size whatever the size of the images."""

from dataclasses import dataclass

import numpy as np

from eclipse.data.picture import Picture, Pixels, middle, resized
from eclipse.data.pixels import to_color

SIDE, WHOLE, SMALLEST = 32, 40, 16
"""Pixels a side of the parts of a piece, of the largest images that are looked at whole, and of the smallest."""
PIXELS = 5_000 * 32 * 32
"""Looked at in all: what two processor cores read in three minutes."""


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of an image until the size of the pieces is known.

    Attributes:
        near: the square in its middle, of at most ``WHOLE`` pixels a side.
        far: of a large image, all of it reduced to ``SIDE`` pixels.
        side: of the image, the shorter one.
    """

    near: Pixels
    far: Pixels | None
    side: int

    @classmethod
    def at(cls, picture: Picture) -> "Look":
        """Look at an image."""
        side = min(picture.rgb.shape[1:])
        return cls(middle(picture.rgb, WHOLE), resized(Picture(picture.rgb), SIDE).rgb if side > WHOLE else None, side)

    def piece(self, side: int) -> Pixels:
        """What is looked at: the square in the middle, or of a large image two squares side by side.

        A piece from the middle, pixel by pixel, has fine perturbations as they are; the whole image reduced has its
        content, and coarse perturbations.

        Args:
            side: the same for all images of an audit; no larger than this one's.

        Returns:
            uint8, (3, side, side) or (3, SIDE, 2 SIDE).
        """
        if side <= WHOLE:
            return middle(self.near, side)
        assert self.far is not None
        return np.concatenate([middle(self.near, SIDE), self.far], axis=2)


def pieces(images: Pixels) -> Pixels:
    """The pieces of images of one size, (N, C, H, W)."""
    side = min(images.shape[2:])
    if side <= WHOLE:
        return images
    return np.stack([Look.at(Picture(image)).piece(side) for image in to_color(images)])


def most(side: int) -> int:
    """How many images whose shorter side has so many pixels fit the time."""
    return PIXELS // (side * side if side <= WHOLE else 2 * SIDE * SIDE)


def places(total: int, wanted: int, parts: int) -> list[range]:
    """Rows to look at, of a set that may be sorted by class: all of few, else so many at about so many places."""
    if total <= wanted:
        return [range(total)]
    size = max(1, wanted // parts)
    starts = np.linspace(0, total - size, wanted // size).round().astype(int).tolist()
    return [range(start, start + size) for start in starts]
