"""Random transformations of a batch of images that a gradient can pass: what attacks average over (EOT).

A shift with a flip is linear and separable, so it is one small matrix for the rows and one for the columns of each
image. Products of matrices are fast on every device and, unlike the gradient of ``grid_sample`` on a GPU, give the
same bytes each time.
"""

import torch
from torch import Tensor

from eclipse.classifiers.pgd import Transform


def flip_shift(pixels: float = 4.0, fill: float | Tensor = 0.0) -> Transform:
    """Mirror each image with probability 1/2 and shift it by up to so many pixels in each direction, bilinearly.

    The augmentation of TAP (Fowl et al., NeurIPS 2021), which EntF and HYPO use too.

    Args:
        pixels: largest shift; shifts are uniform and need not be whole.
        fill: color of what comes into view, on the [0, 1] scale, of a shape that broadcasts to (B, C, H, W).
    """

    def transform(x: Tensor) -> Tensor:
        down, right = (torch.rand(2, len(x), device=x.device) * 2 - 1) * pixels
        return _moved(x - fill, down, right, _coins(x)) + fill

    return transform


def crop_flip(pad: int) -> Transform:
    """Crop each image at its own random place of the zero-padded image, and mirror half of them.

    The differentiable twin of ``victims.fit.crop_and_flip``, for float images.
    """

    def transform(x: Tensor) -> Tensor:
        down, right = torch.randint(-pad, pad + 1, (2, len(x)), device=x.device).to(x.dtype)
        return _moved(x, down, right, _coins(x))

    return transform


def _coins(x: Tensor) -> Tensor:
    return torch.rand(len(x), device=x.device) < 0.5


def _moved(x: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Look at each image from a place so many pixels further down and right, some in a mirror; outside is 0."""
    rows, columns = _lookup(x.shape[2], down), _lookup(x.shape[3], right)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    moved = torch.einsum("bih,bchw,bjw->bcij", rows, x, columns)
    return moved.contiguous(memory_format=torch.channels_last)


def _lookup(length: int, shift: Tensor) -> Tensor:
    """Matrices that read a line of pixels at its places plus a shift, interpolated, (B, length, length)."""
    places = torch.arange(length, device=shift.device, dtype=shift.dtype)
    distance = (places[:, None] + shift[:, None, None] - places).abs()
    return (1 - distance).clamp_min(0)
