"""Small sets whose content is known, and what of it a network can learn."""

import numpy as np

from eclipse.data.imageset import ImageSet

_SIDE = 16


def shapes(count: int, seed: int) -> ImageSet:
    """An L in one of four directions, anywhere, bright or dark: neither pixels nor power spectra tell the class.

    Half of the labels are drawn, so that the content does not tell all of them.
    """
    rng = np.random.default_rng(seed)
    images, labels = np.empty((count, 3, _SIDE, _SIDE), np.uint8), rng.integers(0, 4, count)
    letter = np.zeros((9, 9))
    letter[:, :3] = letter[-3:, :7] = 1
    for image, label in zip(images, labels, strict=True):
        top, left = rng.integers(0, _SIDE - 9, 2)
        canvas = np.zeros((_SIDE, _SIDE))
        canvas[top : top + 9, left : left + 9] = np.rot90(letter, label)
        noisy = rng.uniform(110, 145, (3, 1, 1)) + rng.choice([-90, 90]) * canvas + rng.normal(0, 6, (3, _SIDE, _SIDE))
        image[:] = noisy.clip(0, 255)
    given = np.where(rng.random(count) < 0.5, rng.integers(0, 4, count), labels)
    return ImageSet(images, tuple(f"{seed}-{i}" for i in range(count)), given)
