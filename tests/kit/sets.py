"""Small sets for attacks, and what was changed in them."""

from typing import Any

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


def probed(points: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The share of the second half that a linear least-squares classifier of the first half tells the class of."""
    half, x = len(points) // 2, np.hstack([points / points.std(), np.ones((len(points), 1))])
    weights = np.linalg.lstsq(x[:half], np.eye(labels.max() + 1)[labels[:half]], rcond=1e-3)[0]
    return float(((x[half:] @ weights).argmax(axis=1) == labels[half:]).mean())


def change(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.int16]:
    return poisoned.images.astype(np.int16) - clean.images
