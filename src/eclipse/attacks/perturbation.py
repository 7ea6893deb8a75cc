"""What additive attacks share: adding a perturbation to stored pixels, and measuring what came out.

A radius is on the [0, 1] pixel scale. An L2 radius is stated for 3x32x32 images and grows with the square
root of the number of values, which is the rule of both LSP (6/255 a value) and AR (1.0 at 32x32, 3.0 at
96x96).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet

_CHUNK_VALUES = 2**22  # float32 values worked on at once: 16 MB an array, 1,365 images of 3x32x32


def apply(clean: NDArray[np.uint8], delta: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Add a signed perturbation to images: round it to whole levels, add, clip.

    Rounding, never truncation: truncation shifts a perturbation by half a level and can push it out of its
    ball. Clean pixels are whole levels, so rounding the perturbation rounds the sum; clipping only shortens.

    Args:
        clean: uint8, any shape.
        delta: the perturbation on the [0, 1] scale, of a shape that broadcasts to that of ``clean``.
    """
    levels = np.rint(delta * 255).astype(np.int16)
    poisoned: NDArray[np.uint8] = np.clip(clean + levels, 0, 255).astype(np.uint8)
    return poisoned


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
    step = max(1, _CHUNK_VALUES // math.prod(clean.images.shape[1:]))
    for start in range(0, len(clean), step):
        rows = slice(start, start + step)
        poisoned[rows] = apply(clean.images[rows], perturbation(clean.ids[rows], labels[rows]))
    return clean.with_images(poisoned)


def l2(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The L2 norm of each row of (N, ...)."""
    # In float64 the order of the sum, which differs between chunks, cannot move a rounded pixel.
    squares: NDArray[np.float64] = np.square(values.reshape(len(values), -1), dtype=np.float64).sum(axis=1)
    return np.sqrt(squares)


def to_l2(delta: NDArray[np.floating], length: float) -> NDArray[np.floating]:
    """Scale each row of (N, C, H, W) to this L2 norm."""
    return delta * (length / l2(delta)).reshape(-1, 1, 1, 1)


def measure(clean: NDArray[np.uint8], poisoned: NDArray[np.uint8], norm: str) -> NDArray[np.float64]:
    """The norm (``Linf`` or ``L2``, [0, 1] scale) of each image's change as it is stored, (N,)."""
    change = (poisoned.astype(np.float64) - clean).reshape(len(clean), -1) / 255
    largest: NDArray[np.float64] = np.abs(change).max(axis=1)
    return largest if norm == "Linf" else l2(change)


def scaled_radius(norm: str, radius: float, shape: tuple[int, ...]) -> float:
    """The radius of an attack on images of shape (C, H, W)."""
    return radius * math.sqrt(math.prod(shape) / (3 * 32 * 32)) if norm == "L2" else radius


def bound(norm: str, radius: float, shape: tuple[int, ...]) -> float:
    """The largest norm that an attack's change can have as stored, for images of shape (C, H, W).

    Rounding moves a value by at most half a level. An Linf radius of whole levels is therefore kept exactly;
    an L2 norm can exceed its radius by 0.5/255 * sqrt(C*H*W), 0.109 at 3x32x32 (seen there: 0.01 for AR and
    0.05 for LSP, whose patches round alike).
    """
    if norm == "Linf":
        return math.floor(radius * 255 + 0.5) / 255
    return scaled_radius(norm, radius, shape) + 0.5 / 255 * math.sqrt(math.prod(shape))
