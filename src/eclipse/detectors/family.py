"""What kind of pattern it is that a linear model reads: one pixel, something coarse, or any other of the class."""

import numpy as np
from numpy.typing import NDArray

from eclipse.detectors.evidence import Evidence

_STEADY = 0.1  # standard deviation of a pixel in a class, over that in all images
_MOVING = 10.0  # levels; of a pixel that differs between images
_COARSE, _MOSTLY = 4, 0.3  # cycles an image, and the share of the power below
_FEWEST = 20


def pattern(evidence: Evidence) -> str:
    """``single-pixel``, ``low-frequency`` or ``class-wise``: what is alike in the images of a class."""
    if _one_pixel(evidence.data.images, evidence.labels):
        return "single-pixel"
    taken = evidence.data.images.astype(np.float32) - evidence.purified.images
    means = np.stack([taken[evidence.labels == label].mean(0) for label in np.unique(evidence.labels)])
    power = np.abs(np.fft.fft2(means - means.mean(0))) ** 2
    rows, columns = (np.abs(np.fft.fftfreq(side) * side) for side in power.shape[2:])
    coarse = np.hypot(rows[:, None], columns[None, :]) <= _COARSE
    return "low-frequency" if power[..., coarse].sum() > _MOSTLY * power.sum() else "class-wise"


def _one_pixel(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bool:
    """Whether a pixel that differs between images is the same in all images of a class."""
    overall = images.std(0, dtype=np.float32).max(0)
    for label in np.unique(labels):
        rows = images[labels == label]
        steady = rows.std(0, dtype=np.float32).max(0) < _STEADY * overall
        if len(rows) >= _FEWEST and (steady & (overall > _MOVING)).any():
            return True
    return False
