"""The canary: what a denoiser leaves of perturbations that are known, and what it costs, on a user's own images.

The images are some of those to purify: on trusted images of another kind a denoiser of these looks perfect.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from eclipse.attacks import make_attack
from eclipse.compute.randomness import normal_like
from eclipse.data.imageset import ImageSet
from eclipse.data.picture import middle
from eclipse.data.pixels import add, as_tensor, gray, to_color, to_unit
from eclipse.data.similarity import psnr
from eclipse.data.store import Row, Source
from eclipse.diffusion.checkpoint import fingerprint_denoiser, load_denoiser
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import preset_of
from eclipse.diffusion.trusted import general_fingerprint
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Purification, absorb, denoise, prepare, purification

PLACES, EACH = 4, 6  # of a data set, and images there
SIDE, CLASSES = 64, 8
_RADIUS = 8 / 255
_MUCH = 0.3  # of a perturbation
_MOST_DB = 78.13  # a mean square error of 0.001
# By how much a denoiser of fitting images may fall behind the general one: a tuned one, and one trained from nothing.
_MARGIN_DB = {True: 0.03, False: 1.0}


@dataclass(frozen=True)
class Canary:
    """What was measured.

    Attributes:
        left: by the name of a perturbation d, the share of it that is left: the slope of the change of the purified
            image on d; 1 is all of it, 0 none.
        psnr: of the purified images, in dB; the mean over the images.
        gain: by how much that is more than of the general denoiser, the mean over the images; None where this is the
            general one, or it does not serve the noise level.
        error: the standard error of that mean.
        tuned: the denoiser started from the general one.
        gray: as ``left``, where the purified images are turned gray, as compensation does to some of them.
    """

    left: Mapping[str, float]
    psnr: float
    gain: float | None
    error: float | None
    tuned: bool
    gray: Mapping[str, float] = field(default_factory=dict)

    def words(self) -> str:
        """In a line."""
        parts = ", ".join(f"{share:.1f} of {name}{self._in_gray(name)}" for name, share in self.left.items())
        return f"on your data this leaves {parts}; images come out at {self.psnr:.0f} dB"

    def _in_gray(self, name: str) -> str:
        """What grayscale leaves of much that is left."""
        share = self.gray.get(name)
        return f" ({share:.1f} in gray)" if share is not None and self.left[name] >= _MUCH else ""

    def warning(self) -> str | None:
        """That the denoiser does not fit the images."""
        if self.gain is None or self.error is None or self.gain + 2 * self.error > -_MARGIN_DB[self.tuned]:
            return None
        return (
            f"these images come out {-self.gain:.2f} dB worse than from the general denoiser, which knows none of "
            "them: the trusted images are of another kind, size or quality, or the training was too short; "
            "leave --trusted and --denoiser out, or trust images like these"
        )

    what, share, seconds_left = "canary", 1.0, None

    @property
    def figures(self) -> str:
        """The line."""
        return self.words()


def sample(source: Source, size: int | None) -> ImageSet | None:
    """Crops from the middles of images spread over a data set; None where none can be read.

    Args:
        source: the data set.
        size: the one side that the denoiser takes; None for any.
    """
    images = []
    for row in spread(source):
        with suppress(EclipseError):  # an image that cannot be read is the purification's to tell
            images.append(middle(row.picture().rgb, size or SIDE))  # at once: two dozen whole ones may be gigabytes
    return _of_one_size(images, size)


def spread(source: Source, each: int = EACH) -> Iterator[Row]:
    """A few rows from each of ``PLACES`` places of a data set."""
    every = max(each, len(source) // PLACES)
    for start in range(0, len(source), every)[:PLACES]:
        yield from islice(source.rows(start), each)


def _of_one_size(images: Sequence[NDArray[np.uint8]], size: int | None) -> ImageSet | None:
    side = size or min([SIDE, *(min(image.shape[1:]) for image in images)])
    fitting = [image for image in images if min(image.shape[1:]) >= side]
    if not fitting:
        return None
    return ImageSet.from_arrays(np.stack([middle(image, side) for image in fitting]), np.arange(len(fitting)) % CLASSES)


def measure(denoiser: Denoiser, how: Purification, images: ImageSet, device: str) -> Canary:
    """Perturb images in every known way, purify them, and compare.

    Args:
        denoiser: the one to be judged.
        how: the purification that is planned.
        images: of one size, that the denoiser takes; from ``sample``.
        device: where to compute.
    """
    ready = prepare(denoiser, device)
    purified = _purified(ready, how, images, device)
    left, in_gray = dict[str, float](), dict[str, float]()
    for name, perturb in PERTURBATIONS.items():
        perturbed = perturb(images)
        kept = _purified(ready, how, perturbed, device)
        for shares, of in ((left, lambda pixels: pixels), (in_gray, lambda pixels: to_color(gray(pixels)))):
            shares[name] = round(share_left(images.images, perturbed.images, of(purified), of(kept)), 3)
    found = _psnr(images.images, purified)
    gain = error = None
    if (general := _general_psnr(denoiser, how, images, device)) is not None:
        gains = found - general
        gain, error = round(float(gains.mean()), 3), round(float(gains.std() / math.sqrt(len(gains))), 3)
    tuned = denoiser.config.trained.get("start") == "general"
    return Canary(left, round(float(found.mean()), 2), gain, error, tuned, in_gray)


def share_left(
    images: NDArray[np.uint8], perturbed: NDArray[np.uint8], purified: NDArray[np.uint8], kept: NDArray[np.uint8]
) -> float:
    """The slope of what purification kept of a change on the change: 1 is all of it, 0 none.

    Args:
        images: (N, C, H, W), as all others.
        perturbed: the same with the change.
        purified: of the images.
        kept: of the perturbed images, purified with the same noise.
    """
    change = perturbed.astype(np.float64) - images
    return float(((kept.astype(np.float64) - purified) * change).sum() / max((change**2).sum(), 1.0))


def _purified(ready: Denoiser, how: Purification, images: ImageSet, device: str) -> NDArray[np.uint8]:
    """All at once; the noise is that of the number of an image, and the same whatever was done to it."""
    x_t = absorb(ready, as_tensor(images.images), images.ids, how, 0)
    found: NDArray[np.uint8] = denoise(ready, x_t.to(device), images.ids, how, 0).cpu().numpy()
    return found


def _general_psnr(denoiser: Denoiser, how: Purification, images: ImageSet, device: str) -> NDArray[np.float64] | None:
    if fingerprint_denoiser(denoiser) == general_fingerprint():
        return None
    general = load_denoiser()
    try:
        same = purification(preset_of(general.config), general.config, sigma=how.sigma)
    except EclipseError:  # it knows no level as high as that
        return None
    return _psnr(images.images, _purified(prepare(general, device), same, images, device))


def _psnr(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of each image, in dB; unchanged ones count as nearly so."""
    pairs = zip(torch.from_numpy(images).float(), torch.from_numpy(others).float(), strict=True)
    return np.array([min(psnr(x, y), _MOST_DB) for x, y in pairs])


# ---- perturbations


def _attack(name: str) -> Callable[[ImageSet], ImageSet]:
    return lambda images: make_attack(name).poison(images)


def _edges(images: ImageSet) -> ImageSet:
    """Noise of one octave that lies along edges, as crafted perturbations of surrogates do."""
    noise = torch.from_numpy(normal_like(0, images.ids, 0, images.images.shape[1:], "canary"))
    band = _blurred(noise, 1) - _blurred(noise, 2)
    gray = to_unit(torch.from_numpy(images.images)).mean(1, keepdim=True)
    edges = _blurred((gray - _blurred(gray, 1)).abs(), 1)
    delta = band / band.std() * edges / edges.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return images.with_images(add(images.images, (delta * 2 * _RADIUS).clamp(-_RADIUS, _RADIUS).numpy()))


def _blurred(x: torch.Tensor, reach: int) -> torch.Tensor:
    return avg_pool2d(x, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)


def _linear(images: ImageSet) -> ImageSet:
    """The error-minimizing step against a linear model of these images, which for a linear model is the whole way."""
    x = to_unit(torch.from_numpy(images.images)).flatten(1)
    x = x - x.mean(0)
    y = torch.eye(CLASSES)[torch.from_numpy(images.labels)]
    kernel = x @ x.T
    ridge = kernel.trace() / len(x) + 1e-3  # images may be all alike
    weights = torch.linalg.solve(kernel + ridge * torch.eye(len(x)), y - y.mean(0)).T @ x
    delta = _RADIUS * weights[torch.from_numpy(images.labels)].sign().reshape(images.images.shape)
    return images.with_images(add(images.images, delta.numpy()))


PERTURBATIONS: Mapping[str, Callable[[ImageSet], ImageSet]] = {
    "AR": _attack("ar"),
    "LSP": _attack("lsp"),
    "URP": _attack("urp"),
    "noise along edges": _edges,
    "a linear model's": _linear,
}
"""From what people call it to what perturbs a set, all within the strength that is published for it."""
