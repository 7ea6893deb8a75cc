"""The conversions of pixels: stored and computed ones, gray and color, and a perturbation added."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Stored = NDArray[np.uint8]


def to_unit(images: "Tensor") -> "Tensor":
    """Turn uint8 pixels into float32 in [0, 1]."""
    return images.float().div_(255)


def quantize(images: "Tensor") -> "Tensor":
    """Turn float pixels on the [0, 1] scale into uint8: clip, then round to the nearest level.

    Rounding and not truncation: truncation darkens by half a level each time and can push a perturbation
    out of its ball.
    """
    return images.clamp(0, 1).mul(255).round_().byte()


def add(stored: Stored, delta: NDArray[np.floating]) -> Stored:
    """Add a signed perturbation to stored pixels: round it to whole levels, add, clip.

    Rounding, never truncation (see ``quantize``). Stored pixels are whole levels, so rounding the perturbation rounds
    the sum; clipping only shortens.

    Args:
        stored: uint8, any shape.
        delta: the perturbation on the [0, 1] scale, of a shape that broadcasts to that of ``stored``.
    """
    levels = np.rint(delta * 255).astype(np.int16)
    changed: Stored = np.clip(stored + levels, 0, 255).astype(np.uint8)
    return changed


def to_color(images: Stored) -> Stored:
    """Three equal planes of gray images, (..., 1, H, W); others as they are."""
    return np.repeat(images, 3, axis=-3) if images.shape[-3] == 1 else images


def gray(images: Stored) -> Stored:
    """The rounded mean of the three planes of (..., 3, H, W), (..., 1, H, W); exact where they are equal."""
    mean: Stored = ((images.sum(axis=-3, dtype=np.uint16, keepdims=True) + 1) // 3).astype(np.uint8)
    return mean
