"""CUDA: class-wise convolution."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.attacks.attack import Attack, check_classes
from eclipse.compute.randomness import stream
from eclipse.data.changes import chunks
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

_LARGE = 64  # pixels of the shorter side from which on the authors' settings for ImageNet apply


@dataclass(frozen=True)
class CUDA(Attack):
    """Convolution-based unlearnable data set (Sadasivan, Soltanolkotabi and Feizi, CVPR 2023, arXiv 2303.04278).

    x' = (k_y * x) / max(k_y * x), with a kernel k_y of the class, the same for all channels: uniform(0, blur), one
    entry of it, drawn at random, set to 1; zeros beyond the border. No norm bounds the change, so it is outside
    of what the ECLIPSE paper claims to purify, and shows that limit.

    Left out of the authors' code on purpose: truncation to whole levels, a black image divided by its maximum of
    0, and the share of images to poison, whose draws (one an image) are made even where all are poisoned.

    Attributes:
        radius: infinite, as there is none.
        kernel: side of the kernel, odd; None is 3 for CIFAR, and 9 for images of 64 pixels a side and more.
        blur: upper end of the other entries; None is 0.3 with 3 pixels and 0.06 for images of 64 pixels and more.
    """

    title: ClassVar[str] = "class-wise convolution"
    family: ClassVar[str] = "synthetic"
    norm: ClassVar[str] = "none"
    radius: float = math.inf
    kernel: int | None = None
    blur: float | None = None

    def __post_init__(self) -> None:
        if self.radius != math.inf:
            raise EclipseError(
                f"CUDA radius {self.radius:g}, but nothing bounds this attack; leave it out, or set blur"
            )
        if self.kernel is not None and (self.kernel < 1 or self.kernel % 2 != 1):
            raise EclipseError(f"a CUDA kernel of {self.kernel:g} pixels; expected an odd number, such as 3")
        if self.blur is not None and not 0 <= self.blur <= 1:
            raise EclipseError(f"CUDA blur {self.blur:g}; expected 0 to 1, such as 0.3")

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Convolve every image with the kernel of its class, made from (seed, class) alone; needs no device.

        About 0.1 s for 1,000 images of 3x32x32 on one core.
        """
        check_classes("CUDA", clean)
        labels = clean.require_labels("CUDA")
        poisoned = np.empty_like(clean.images)
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            kernel = self.kernel_of(label, min(clean.images.shape[2:]), work.seed)
            for part in chunks(clean.images[rows]):
                poisoned[rows[part]] = _to_full_range(convolve(clean.images[rows[part]], kernel))
        return clean.with_images(poisoned)

    def kernel_of(self, label: int, side: int, seed: int) -> NDArray[np.float32]:
        """Draw the kernel of a class for images whose shorter side has this many pixels."""
        large = side >= _LARGE
        size = self.kernel or (9 if large else 3)
        blur = (0.06 if large else 0.3) if self.blur is None else self.blur
        rng = stream(seed, str(label), 0, "cuda class")
        kernel = rng.uniform(0, blur, (size, size)).astype(np.float32)
        kernel[tuple(rng.integers(0, size, 2))] = 1
        return kernel


def convolve(images: NDArray[np.uint8], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlate each channel of (N, C, H, W) with a kernel, with zeros beyond the border, as networks do."""
    height, width = images.shape[2:]
    margin = len(kernel) // 2
    padded = np.pad(images.astype(np.float32), ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    result = np.zeros(images.shape, np.float32)
    for (y, x), weight in np.ndenumerate(kernel):
        result += weight * padded[:, :, y : y + height, x : x + width]
    return result


def _to_full_range(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale each image so that its largest value is 255, and round; a black one stays black."""
    largest = images.max(axis=(1, 2, 3), keepdims=True)
    return np.rint(images * (255 / np.where(largest > 0, largest, 1))).astype(np.uint8)
