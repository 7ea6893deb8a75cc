"""What additive attacks share: perturbing the images of a set, and the bound of what comes out.

A radius is on the [0, 1] pixel scale. An L2 radius is stated for 3x32x32 images and grows with the square
root of the number of values, which is the rule of both LSP (6/255 a value) and AR (1.0 at 32x32, 3.0 at
96x96).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from eclipse.classifiers.pgd import scaled_radius
from eclipse.data.changes import chunks, l2
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import add


def perturb(
    clean: ImageSet,
    perturbation: Callable[[Sequence[str], NDArray[np.int64]], NDArray[np.floating]],
    purpose: str,
) -> ImageSet:
    """Add to every image a perturbation that depends on its id and label alone, in bounded memory.

    Args:
        clean: a labelled set.
        perturbation: from the ids and labels of n rows to their float (n, C, H, W) on the [0, 1] scale.
        purpose: who needs the labels, for the error where there are none.
    """
    labels = clean.require_labels(purpose)
    poisoned = np.empty_like(clean.images)
    for rows in chunks(clean.images):
        poisoned[rows] = add(clean.images[rows], perturbation(clean.ids[rows], labels[rows]))
    return clean.with_images(poisoned)


def add_noise(clean: ImageSet, noise: NDArray[np.floating]) -> ImageSet:
    """Add the noise of row i, (N, C, H, W) on the [0, 1] scale, to image i, in bounded memory."""
    poisoned = np.empty_like(clean.images)
    for rows in chunks(clean.images):
        poisoned[rows] = add(clean.images[rows], noise[rows].astype(np.float32))
    return clean.with_images(poisoned)


def to_l2(delta: NDArray[np.floating], length: float) -> NDArray[np.floating]:
    """Scale each row of (N, C, H, W) to this L2 norm."""
    return delta * (length / l2(delta)).reshape(-1, 1, 1, 1)


def bound(norm: str, radius: float, shape: tuple[int, ...]) -> float:
    """The largest norm that an attack's change can have as stored, for images of shape (C, H, W).

    Rounding moves a value by at most half a level. An Linf radius of whole levels is therefore kept exactly, and
    a count of pixels (L0) is too; an L2 norm can exceed its radius by 0.5/255 * sqrt(C*H*W), 0.109 at 3x32x32
    (seen there: 0.01 for AR and 0.05 for LSP, whose patches round alike). Norm ``none`` has no bound.
    """
    if norm == "Linf":
        return math.floor(radius * 255 + 0.5) / 255
    if norm == "L2":
        return scaled_radius(norm, radius, shape) + 0.5 / 255 * math.sqrt(math.prod(shape))
    return radius if norm == "L0" else math.inf
