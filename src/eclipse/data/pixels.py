"""The conversions of pixels: stored and computed ones, gray and color, and a perturbation added."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eclipse.errors import EclipseError

if TYPE_CHECKING:
    from torch import Tensor

Stored = NDArray[np.uint8]

_CHANNELS = 4  # that an image can have: color and alpha


def as_tensor(images: Stored) -> "Tensor":
    """The same pixels, which are not to be changed, as a tensor; without a copy where they lie in order.

    A set of images may fill half of the memory.
    """
    import torch

    return torch.from_numpy(np.require(images, requirements=["C", "W"]))  # torch warns of an array that is read-only


def to_unit(images: "Tensor") -> "Tensor":
    """Turn uint8 pixels into float32 in [0, 1]."""
    return images.float().div_(255)


def quantize(images: "Tensor") -> "Tensor":
    """Turn float pixels on the [0, 1] scale into uint8: clip, then round to the nearest level.

    Rounding and not truncation: truncation darkens by half a level each time and can push a perturbation
    out of its ball.
    """
    return images.clamp(0, 1).mul_(255).round_().byte()


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


def around_gray(levels: NDArray[Any], times: float) -> Stored:
    """Signed differences in levels as an image: so many times enlarged, around middle gray, and clipped."""
    shown: Stored = np.clip(np.rint(128 + times * levels), 0, 255).astype(np.uint8)
    return shown


def check_array(images: Any, also: tuple[Any, ...] = ()) -> None:
    """Refuse what is no array of images (N, C, H, W), such as a list, or has its channels last.

    Args:
        images: what a user of Python gave.
        also: other types that will do.

    Raises:
        EclipseError: says what it is, and how to turn it into an array.
    """
    known: tuple[Any, ...] = (np.ndarray, *also)
    if not isinstance(images, known):
        first = next(iter(images), None) if isinstance(images, list | tuple) else None
        of = "" if first is None else f" of {type(first).__name__}"
        raise EclipseError(
            f"images are a {type(images).__name__}{of}; expected an array, uint8 (N, 3, H, W): use numpy.stack on "
            "arrays of one size, numpy.asarray(image).transpose(2, 0, 1) on a PIL image, .numpy() on a tensor"
        )
    if images.ndim == 4 and images.shape[1] > _CHANNELS:
        last = images.shape[3] <= _CHANNELS
        raise EclipseError(
            f"images of shape {tuple(images.shape)} have {images.shape[1]} channels; expected (N, C, H, W)"
            + (": they have their channels last, use images.transpose(0, 3, 1, 2)" if last else " with C of 1 to 4")
        )
