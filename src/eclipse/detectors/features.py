"""Features of images that simple models read."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

_COARSE = 8  # pixels a side of a reduced copy
_BANDS = 8


def flat(images: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels of images (N, C, H, W) as features, (N, F)."""
    return images.reshape(len(images), -1).astype(np.float32)


def coarse(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduced copies of images (N, C, H, W) as features, (N, F)."""
    small = adaptive_avg_pool2d(torch.from_numpy(images).float(), _COARSE)
    found: NDArray[np.float32] = small.flatten(1).numpy()
    return found


def spectrum(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logarithm of the power of each channel in a grid of frequencies, (N, F)."""
    rows = 2 * _BANDS
    out = np.empty((len(images), images.shape[1] * rows * _BANDS), np.float32)
    for i in range(0, len(images), 500):
        power = np.abs(np.fft.rfft2(images[i : i + 500].astype(np.float32) / 255)) ** 2
        power = np.fft.fftshift(power, 2)
        cells = np.add.reduceat(power, _starts(power.shape[2], rows), 2)
        cells = np.add.reduceat(cells, _starts(power.shape[3], _BANDS), 3)
        out[i : i + 500] = np.log(cells + 1e-3).reshape(len(cells), -1)
    return out


def _starts(length: int, parts: int) -> NDArray[np.intp]:
    """Where parts of nearly equal length begin."""
    return np.linspace(0, length, parts, endpoint=False).astype(np.intp)


def color(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean, standard deviation, least and largest value of each channel, (N, 4 C)."""
    x = images.reshape(*images.shape[:2], -1).astype(np.float32)
    found: NDArray[np.float32] = np.concatenate([x.mean(2), x.std(2), x.min(2), x.max(2)], 1)
    return found
