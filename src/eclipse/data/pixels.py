"""The only two conversions between stored pixels and computed ones."""

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """Turn uint8 pixels into float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def quantize(images: Tensor) -> Tensor:
    """Turn float pixels on the [0, 1] scale into uint8: clip, then round to the nearest level.

    Rounding and not truncation: truncation darkens by half a level each time and can push a perturbation
    out of its ball.
    """
    return images.clamp(0, 1).mul(255).round_().to(torch.uint8)
