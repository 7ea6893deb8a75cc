"""The lightweight corruption compensation C(x; p, noise, q): paper Eq. 13, modules B and C.

In the paper every image gets noise. With a noise probability q below 1 some stay without, so that a network trained on
them also sees images as it will meet them; preset ``fast`` has q = 1/2 (docs/log).

``Compensate`` redraws it at each use of an image (*online*: the default, as in the reference code); ``once``
writes it into the data (as Algorithm 1 words it).
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eclipse.compute.randomness import stream
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import quantize, to_unit
from eclipse.data.sample import called_with, images_of, opened
from eclipse.diffusion.presets import FAST
from eclipse.errors import EclipseError

# The numbers of the paper, section 4.1, which adds noise to every image.
P = 0.4  # grayscale probability
NOISE = 0.05  # standard deviation on the [0, 1] scale, 12.8/255
Q = 1.0  # noise probability

_LUMA = (0.299, 0.587, 0.114)
_ROWS = 1024  # of an image set, worked on at once


class Compensate(torch.nn.Module):
    """Turn each image gray with probability p, add Gaussian noise with probability q, clamp to [0, 1]; anew each time.

    It corrupts in training and in evaluation mode alike: keep it out of the transforms for testing, and place
    it before any normalization.

    Args:
        p: probability of grayscale (luma 0.299, 0.587, 0.114 on all three channels) of each image. This and the other
            defaults are those of preset ``fast``; the paper's, and preset ``paper``'s, are 0.4, 0.05 and 1.
        noise: its standard deviation on the [0, 1] scale.
        q: probability of the noise of each image.
        generator: source of the randomness, on the device of the images; None is torch's global one, which
            differs between the workers of a DataLoader while a given generator does not.
        image_key: of the images in a mapping; by default ``image`` or another usual name.
    """

    def __init__(
        self,
        p: float = FAST.p,
        noise: float = FAST.noise,
        q: float = FAST.q,
        *,
        generator: torch.Generator | None = None,
        image_key: str | None = None,
    ) -> None:
        super().__init__()
        check_parameters(p, noise, q)
        self.p, self.noise, self.q, self.generator, self.image_key = p, noise, q, generator, image_key

    def forward(self, *sample: Any, **named: Any) -> Any:
        """Corrupt an image, a batch, or the images of a sample.

        It works under ``torch.compile`` as one graph, where no generator was given, and under ``torch.func.vmap`` with
        ``randomness="different"``; neither sees whether floats lie in [0, 1].

        Args:
            sample: a tensor (B, C, H, W) or (C, H, W), C = 3 or 1, float in [0, 1] or uint8, also a tv_tensor; an
                array with the channels last, (H, W), (H, W, C) or (B, H, W, C); a PIL image, RGB or L; a list of these;
                a tuple or list that begins with images, such as (image, label); or a mapping, in which they are found
                by ``image_key`` or the usual names; several arguments are one sample. One channel is gray as it is.
            named: the sample in named arguments instead, ``image=...``, as Albumentations calls its transforms.

        Returns:
            The same kind, shape and type, a mapping as a dict; 8-bit results are rounded.

        Raises:
            EclipseError: another kind, shape or type, floats out of range, no image in a mapping.
        """
        images, back = images_of(called_with(sample, named), self.image_key)
        return back([self._one(image) for image in images] if isinstance(images, list) else self._one(images))

    def extra_repr(self) -> str:
        """The parameters, for ``print(transform)``."""
        return f"p={self.p}, noise={self.noise}, q={self.q}"

    def _one(self, image: Any) -> Any:
        x, back = opened(image)
        return back(quantize(self._corrupt(to_unit(x))) if x.dtype == torch.uint8 else self._corrupt(x))

    def _corrupt(self, x: Tensor) -> Tensor:
        batch = x if x.ndim == 4 else x.unsqueeze(0)
        gray, noisy = torch.rand(2, len(batch), generator=self.generator, device=x.device)
        drawn = torch.randn(batch.shape, generator=self.generator, device=x.device, dtype=x.dtype)
        strength = self.noise * (noisy < self.q).to(x.dtype)
        return corrupt(batch, gray < self.p, strength.view(-1, 1, 1, 1) * drawn).reshape(x.shape)


def once(
    images: ImageSet, *, p: float = FAST.p, noise: float = FAST.noise, q: float = FAST.q, seed: int = 0
) -> ImageSet:
    """Write the corruption into the data; what an image gets depends on (seed, id) alone."""
    check_parameters(p, noise, q)
    if images.images.shape[1] not in (1, 3):
        raise EclipseError(f"images of shape {images.images.shape}; expected (B, C, H, W) with C = 3 or 1")
    out = np.empty_like(images.images)
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        gray, noisy, drawn = _draw(seed, images.ids[rows], images.images.shape[1:])
        x = to_unit(torch.tensor(images.images[rows]))
        drawn *= noise * (noisy < q).view(-1, 1, 1, 1)
        out[rows] = quantize(corrupt(x, gray < p, drawn)).numpy()
    return images.with_images(out)


def corrupt(x: Tensor, gray: Tensor, noise: Tensor) -> Tensor:
    """Eq. 13 with its random draws given; differentiable.

    Args:
        x: (B, C, H, W), float in [0, 1].
        gray: which images turn gray, bool, (B,).
        noise: what is added, shaped like x.
    """
    if x.shape[1] == 3:
        weights = x.new_tensor(_LUMA).view(1, 3, 1, 1)
        x = torch.where(gray.view(-1, 1, 1, 1), (x * weights).sum(dim=1, keepdim=True), x)
    return (x + noise).clamp(0, 1)


def _draw(seed: int, ids: Sequence[str], shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """For each id two uniform numbers, (N,) each, and standard normal noise, (N, *shape)."""
    gray, noisy = np.empty((2, len(ids)))
    noise = np.empty((len(ids), *shape), dtype=np.float32)
    for i, id in enumerate(ids):
        rng = stream(seed, id, 0, "compensate")
        gray[i] = rng.random()
        rng.standard_normal(dtype=np.float32, out=noise[i])
        noisy[i] = rng.random()
    return torch.from_numpy(gray), torch.from_numpy(noisy), torch.from_numpy(noise)


def check_parameters(p: float, noise: float, q: float = Q) -> None:
    """Refuse a probability or a strength of noise that cannot be meant."""
    for name, value in (("p", p), ("noise", noise), ("q", q)):
        if not isinstance(value, Real):
            raise EclipseError(f"{name} is {value!r}; expected a number")
    if not 0 <= q <= 1:
        raise EclipseError(f"noise probability {q:g}; expected 0 to 1 (the paper adds noise to every image: 1)")
    if not 0 <= p <= 1:
        raise EclipseError(f"grayscale probability {p:g}; expected 0 to 1 (the paper uses 0.4)")
    if noise >= 1:
        raise EclipseError(
            f"noise {noise:g} looks like 8-bit levels; expected a value on the [0, 1] scale, "
            f"here {noise:g}/255 = {noise / 255:.3g} (the paper uses 0.05)"
        )
    if not noise >= 0:
        raise EclipseError(f"noise {noise:g}; expected 0 or more and below 1 (the paper uses 0.05)")
