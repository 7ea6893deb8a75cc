"""Small sets for attacks, and what was changed in them."""

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet

SPECTRA = {  # share of the energy at r < 4, 4-8, 8-12, >= 12 cycles an image, measured on the authors' code
    "lsp": (0.82, 0.10, 0.05, 0.03),
    "ar": (0.21, 0.15, 0.13, 0.51),
    "urp": (0.04, 0.14, 0.24, 0.57),
}


def gray_set(n: int, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> ImageSet:
    """Images of one middle gray, which no perturbation here clips."""
    return ImageSet.from_arrays(np.full((n, *shape), 128, np.uint8), np.arange(n) % classes)


def noisy_set(n: int, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> ImageSet:
    """Images whose pixels, 0 and 255 among them, are clipped here and there."""
    pixels = np.random.default_rng(1).integers(-60, 316, (n, *shape)).clip(0, 255).astype(np.uint8)
    return ImageSet.from_arrays(pixels, np.arange(n) % classes)


def change(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.int16]:
    return poisoned.images.astype(np.int16) - clean.images
