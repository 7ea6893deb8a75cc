"""``fit`` and ``transform`` over the same functions, for people who know scikit-learn."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eclipse.data.imageset import ImageSet
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.training import Images
from eclipse.diffusion.trusted import train_denoiser
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Pixels, purify

Data = TypeVar("Data", ImageSet, NDArray[np.uint8], Tensor)


class Purifier:
    """Learn from trusted images, then purify suspicious ones: ``Purifier().fit(clean).transform(data)``.

    Args:
        preset: ``fast`` or ``paper``.
        sigma: noise level as a standard deviation on the [0, 1] scale; the preset's by default.
        steps: network evaluations; the preset's by default.
        sampler: the preset's by default.
        iterations: training steps; the preset's by default.
        seed: of training and of the noise.
        device: ``auto``, ``cpu`` or ``cuda``.

    Attributes:
        denoiser: the trained denoiser, after ``fit``.
    """

    def __init__(
        self,
        preset: str = "fast",
        *,
        sigma: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        iterations: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.preset = preset
        self.sigma = sigma
        self.steps = steps
        self.sampler = sampler
        self.iterations = iterations
        self.seed = seed
        self.device = device
        self.denoiser: Denoiser | None = None

    def fit(self, clean: ImageSet | Images) -> "Purifier":
        """Train the denoiser on trusted images (see ``train_denoiser``) and return self."""
        images = clean.images if isinstance(clean, ImageSet) else clean
        self.denoiser = train_denoiser(
            images, self.preset, iterations=self.iterations, sigma=self.sigma, seed=self.seed, device=self.device
        )
        return self

    def transform(self, data: Data) -> Data:
        """Purify a set, or images as ``purify`` takes them; labels, ids and order stay."""
        if isinstance(data, ImageSet):
            return data.with_images(self._purify(data.images, data.ids))
        return self._purify(data, None)

    def _purify(self, images: Pixels, ids: tuple[str, ...] | None) -> Pixels:
        if self.denoiser is None:
            raise EclipseError("this Purifier has no denoiser yet; call fit(trusted_images) before transform")
        return purify(
            images,
            self.denoiser,
            sigma=self.sigma,
            steps=self.steps,
            sampler=self.sampler,
            seed=self.seed,
            ids=ids,
            device=self.device,
        )
