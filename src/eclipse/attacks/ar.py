"""AR: autoregressive perturbations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.attacks.attack import Attack
from eclipse.attacks.crafting.ar_process import processes, simulate, start_shape
from eclipse.attacks.crafting.perturbation import perturb, to_l2
from eclipse.classifiers.pgd import scaled_radius
from eclipse.compute.randomness import normal_like
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import Work


@dataclass(frozen=True, eq=False)
class AR(Attack):
    """Autoregressive perturbations (Sandoval-Segura et al., NeurIPS 2022).

    A class is one autoregressive process, an image its own realization of it. An image of one channel gets
    the first channel of the process.

    Rounding can push the L2 norm over the radius: see ``perturbation.bound``.

    Attributes:
        radius: L2 for 3x32x32 images on the [0, 1] scale; grows with the side length.
        coefficients: one process for each class, (classes, 3, 3, 3), with 0 in the bottom-right corners and
            blocks that sum to 1; None is the ten published ones, continued by a search for more classes.
    """

    title: ClassVar[str] = "autoregressive processes"
    family: ClassVar[str] = "synthetic"
    norm: ClassVar[str] = "L2"
    radius: float = 1.0
    coefficients: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise EclipseError(f"AR radius {self.radius:g}; expected more than 0, such as the default 1.0")
        if self.coefficients is not None:
            _check_blocks(self.coefficients)

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Perturb every image; its perturbation depends on (seed, class, id) alone; needs no device.

        About 0.1 s for 1,000 images of 3x32x32 on one core.
        """
        channels, height, width = clean.images.shape[1:]
        blocks = self._blocks(clean.num_classes, channels)
        length = scaled_radius(self.norm, self.radius, clean.images.shape[1:])

        def perturbation(ids: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.floating]:
            start = normal_like(work.seed, ids, 0, start_shape(channels, height, width), "ar")
            signals = simulate(blocks[labels], start, height, width)
            _check_finite(signals, labels)
            return to_l2(signals, length)

        return perturb(clean, perturbation, "AR")

    def _blocks(self, classes: int, channels: int) -> NDArray[np.float32]:
        if channels > 3:
            raise EclipseError(f"AR on images of {channels} channels; expected 1 to 3, so convert them to RGB")
        if self.coefficients is None:
            return processes(classes)[:, :channels]
        if classes > len(self.coefficients):
            raise EclipseError(
                f"AR coefficients for {len(self.coefficients)} classes and a data set of {classes}; "
                "expected one process for each class, or none given for the default ones"
            )
        return self.coefficients[:, :channels].astype(np.float32)


def _check_blocks(coefficients: NDArray[np.floating]) -> None:
    if coefficients.ndim != 4 or coefficients.shape[1:] != (3, 3, 3):
        raise EclipseError(f"AR coefficients of shape {coefficients.shape}; expected (classes, 3, 3, 3)")
    sums = coefficients.sum(axis=(2, 3))
    if np.any(coefficients[..., 2, 2]) or not np.allclose(sums, 1, atol=1e-2):
        raise EclipseError(
            f"AR blocks that sum to {sums.min():.3g} at least and {sums.max():.3g} at most; "
            "expected 1 for each, with 0 in the bottom-right corner"
        )


def _check_finite(signals: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    broken = ~np.isfinite(signals).all(axis=(1, 2, 3))
    if broken.any():
        height, width = signals.shape[2:]
        raise EclipseError(
            f"the AR process of class {labels[broken][0]} overflows on images of {height}x{width}; "
            "expected smaller images or coefficients of a process that does not explode"
        )
