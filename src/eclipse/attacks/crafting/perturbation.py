"""What additive attacks share: perturbing the images of a set, and measuring what came out.

A radius is on the [0, 1] pixel scale. An L2 radius is stated for 3x32x32 images and grows with the square
root of the number of values, which is the rule of both LSP (6/255 a value) and AR (1.0 at 32x32, 3.0 at
96x96).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from eclipse.classifiers.pgd import scaled_radius
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import add
from eclipse.errors import unknown

_CHUNK_VALUES = 2**22  # float32 values worked on at once: 16 MB an array, 1,365 images of 3x32x32


def chunks(images: NDArray[np.uint8]) -> Iterator[slice]:
    """Cut the rows of (N, C, H, W) into slices that can be worked on in float32 in bounded memory."""
    step = max(1, _CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


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


def l2(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The L2 norm of each row of (N, ...)."""
    # In float64 the order of the sum, which differs between chunks, cannot move a rounded pixel.
    squares: NDArray[np.float64] = np.square(values.reshape(len(values), -1), dtype=np.float64).sum(axis=1)
    return np.sqrt(squares)


def to_l2(delta: NDArray[np.floating], length: float) -> NDArray[np.floating]:
    """Scale each row of (N, C, H, W) to this L2 norm."""
    return delta * (length / l2(delta)).reshape(-1, 1, 1, 1)


def _largest(change: NDArray[np.int16]) -> NDArray[np.float64]:
    largest: NDArray[np.float64] = np.abs(change).max(axis=(1, 2, 3)) / 255
    return largest


NORMS: dict[str, Callable[[NDArray[np.int16]], NDArray[np.float64]]] = {
    "Linf": _largest,
    "L2": lambda change: l2(change / 255),
    "L0": lambda change: change.any(axis=1).sum(axis=(1, 2)).astype(np.float64),
    "none": _largest,
}
"""From changes in levels, (N, C, H, W), to their sizes: pixels for L0, else on the [0, 1] scale."""


def size(change: NDArray[np.int16], norm: str) -> NDArray[np.float64]:
    """The norm of each row of a change in levels, (N, C, H, W): a name in ``NORMS``.

    Raises:
        EclipseError: no such norm.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    return NORMS[norm](change)


def measure(clean: NDArray[np.uint8], poisoned: NDArray[np.uint8], norm: str) -> NDArray[np.float64]:
    """The norm of each image's change as it is stored, (N,), in bounded memory; see ``size``."""
    sizes = np.empty(len(clean))
    for rows in chunks(clean):
        sizes[rows] = size(poisoned[rows].astype(np.int16) - clean[rows], norm)
    return sizes


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


def length_in_words(norm: str, length: float) -> str:
    """A length in a norm: levels for ``Linf`` and ``none``, pixels for ``L0``."""
    if norm == "L2":
        return f"{length:.3g}"
    if norm == "L0":
        return f"{length:g} pixel{'' if length == 1 else 's'}"
    return f"{length * 255:.4g} levels"
