"""How alike two images are."""

import math

import torch
from torch.nn.functional import avg_pool2d

_WINDOW = 7  # of SSIM, as it is usual for a uniform one
_STABLE = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # constants of SSIM


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images.

    Args:
        x: of any shape, in levels.
        y: of the same shape.
    """
    error = float(((x - y) ** 2).mean(dtype=torch.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(x: torch.Tensor, y: torch.Tensor) -> float:
    """Structural similarity (Wang et al., 2004) over uniform windows of 7x7, the mean over positions and channels.

    Args:
        x: (3, H, W), in levels.
        y: of the same shape.
    """
    window = (min(_WINDOW, x.shape[1]), min(_WINDOW, x.shape[2]))
    mean_x, mean_y, xx, yy, xy = avg_pool2d(torch.stack((x, y, x * x, y * y, x * y)), window, stride=1)
    small, large = _STABLE
    together = (2 * mean_x * mean_y + small) * (2 * (xy - mean_x * mean_y) + large)
    apart = (mean_x**2 + mean_y**2 + small) * (xx - mean_x**2 + yy - mean_y**2 + large)
    return float((together / apart).mean(dtype=torch.float64))
