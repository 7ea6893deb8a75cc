"""One-step denoising: noise once, and take a denoiser's estimate of the image behind it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eclipse.data.imageset import ImageSet
from eclipse.defenses.defense import Defense, need
from eclipse.defenses.purifying import TrainedPurification, trained_purification
from eclipse.errors import EclipseError
from eclipse.parameters import LEVELS, all_fields
from eclipse.runs.state import Work


@dataclass(frozen=True)
class OneStep(Defense):
    """One-step denoising of the training set (Hong, Carlini and Kurakin, "Certified Robustness to Clean-Label Poisoning
    Using Diffusion Denoising", 2024).

    Gaussian noise is added to every image once, and a diffusion model, asked once at the matching level, estimates the
    image. The paper certifies a few poisoned images with an off-the-shelf model; when every image is poisoned nothing
    is certified, and the model here is trained on the trusted images. There is no compensation: what ECLIPSE adds to
    such a step is what the comparison is about.

    The default noise, 0.25, is the smallest of the usual levels of randomized smoothing (0.25, 0.5, 1.0), and ten times
    that of ECLIPSE as published; it is our choice, and others are worth trying.

    Attributes:
        sigma: standard deviation of the noise on the [0, 1] scale, added to the image as it is.
        preset: of the denoiser, ``fast`` or ``paper``.
        iterations: its training steps; None for the preset's.
    """

    title: ClassVar[str] = "noise and one step of denoising"
    acts: ClassVar[str] = "data"
    trusted: ClassVar[str] = "images"
    small: ClassVar[Mapping[str, Any]] = {"preset": "fast"}
    sigma: float = field(default=0.25, metadata=LEVELS)
    preset: str = "paper"
    iterations: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise EclipseError(
                f"noise level sigma {self.sigma * 255:g}/255 of one-step; expected more than 0 and at most 255 levels"
            )
        self._trained()

    @property
    def package(self) -> tuple[str, str] | None:
        """What the network stands on."""
        return self._trained().package

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Noise and denoise every image once."""
        clean = need(trusted, "one-step", "a few images")
        return self._trained().purify(data, clean, work)

    def settings(self) -> dict[str, Any]:
        """All fields, with the preset's numbers."""
        return {**self._trained().settings(), **all_fields(self)}

    def cost(self) -> float:
        """With the training of the denoiser, by operations, for a ResNet-18, 80 epochs and 50,000 32x32 images."""
        return 1.0 + self._trained().cost()

    def _trained(self) -> TrainedPurification:
        return trained_purification(self.preset, self.iterations, sigma=self._level(), steps=1, sampler="one-step")

    def _level(self) -> float:
        """The noise level of the diffusion that matches.

        There an image shrinks as it is noised, by a = sqrt(abar), so that x + sigma z is x_t / a on the [-1, 1] scale
        where (1 - abar) / abar = (2 sigma)^2; levels are sqrt(1 - abar) / 2.
        """
        return self.sigma / math.sqrt(1.0 + 4.0 * self.sigma**2)
