"""Images in memory: one loop behind ``purify``, ``Purifier`` and the defenses that purify."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclipse.compute.device import resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import Stored, as_tensor, check_array, gray, to_color
from eclipse.diffusion.checkpoint import load_denoiser
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig, check_denoiser
from eclipse.diffusion.presets import preset_of
from eclipse.diffusion.training import Images
from eclipse.diffusion.trusted import train_denoiser
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Purification, absorb, check_ids, denoise, group_size, prepare, purification
from eclipse.purification.stream import Treatment
from eclipse.purification.table import is_table, purify_table
from eclipse.runs.state import TELL_EVERY_S, State, Work

SAVE_EVERY_S = 30.0  # what a kill may cost, as with the training of a denoiser

Pixels = TypeVar("Pixels", Stored, Tensor)
Some = TypeVar("Some")
Data = TypeVar("Data", ImageSet, Stored, Tensor)


def purify(
    images: Some,
    denoiser: Denoiser | None = None,
    *,
    sigma: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    image_column: str | None = None,
    device: str = "auto",
) -> Some:
    """Purify images in memory, or those of a ``datasets.Dataset``, in memory or not.

    Args:
        images: uint8, (N, 3, H, W) or, gray, (N, 1, H, W), as a NumPy array or a torch tensor; or a Dataset with a
            column of images of any sizes.
        denoiser: from ``train_denoiser`` or ``load_denoiser``, which stays as it is; by default the general one that
            comes with the package.
        sigma: noise level t* as a standard deviation on the [0, 1] scale (32 / 255); the preset's by default.
        steps: network evaluations; the preset's by default.
        sampler: a name in ``samplers.SAMPLERS``; the preset's by default.
        seed: decides the noise, together with the ids.
        ids: one stable identity a row; by default the row number.
        image_column: of a Dataset, the column with the images; found by its type when not given.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The same kind and shape, uint8, in the same order; a tensor on the device that it came from. Of a Dataset one
        of the same features and rows, with the bytes that ``eclipse purify`` gives for it saved as Parquet; it lies on
        disk, in the cache of ``datasets``, so that memory is bounded.

    Raises:
        EclipseError: wrong type or shape, a level or size that the denoiser was not made for; of a Dataset, no column
            with images, or one that cannot be read.
    """
    of_table = is_table(images)
    if not of_table:
        check_array(images, also=(Tensor,))
    denoiser = load_denoiser() if denoiser is None else denoiser
    check_denoiser(denoiser)
    how = purification(preset_of(denoiser.config), denoiser.config, sigma=sigma, steps=steps, sampler=sampler)
    where = resolve_device(device)
    if of_table:
        return cast(Some, purify_table(images, denoiser, Treatment(how, seed, where), ids, image_column))
    return cast(Some, _purify_pixels(cast(Any, images), ids, denoiser, how, seed, where))


def _purify_pixels(
    images: Pixels, ids: Sequence[str] | None, denoiser: Denoiser, how: Purification, seed: int, device: str
) -> Pixels:
    names = [str(i) for i in range(len(images))] if ids is None else ids
    _check(images, names)
    denoiser.config.check_size(*images.shape[2:])
    stored = images.cpu().numpy() if isinstance(images, Tensor) else images
    out = np.empty(stored.shape, np.uint8)
    for rows, part in purified_parts(stored, names, prepare(denoiser, device), how, seed):
        out[rows] = part
    return torch.from_numpy(out).to(images.device) if isinstance(images, Tensor) else out


def purify_set(data: ImageSet, denoiser: Denoiser, how: Purification, work: Work) -> ImageSet:
    """Purify all images of a set, with the bytes of ``purify``; a killed purification goes on.

    Raises:
        EclipseError: images of a size or of channels that the denoiser does not take.
    """
    check_images(data, denoiser.config)
    out, state = np.empty_like(data.images), work.state
    first = saved = _restore(state, out)
    told = kept = time.monotonic()
    ready = prepare(denoiser, resolve_device(work.device))
    for rows, part in purified_parts(data.images, data.ids, ready, how, work.seed, first):
        out[rows], now = part, time.monotonic()
        if now - kept >= SAVE_EVERY_S:
            state.save(f"purified {saved}", {"images": torch.from_numpy(out[saved : rows.stop])}, {})
            saved, kept = rows.stop, now
        if now - told >= TELL_EVERY_S or rows.stop == len(data):
            state.tell("purification", rows.stop, len(data))
            told = now
    return data.with_images(out)


def check_images(data: ImageSet, config: DenoiserConfig) -> None:
    """Refuse images that a denoiser does not take."""
    if data.images.shape[1] not in (1, 3):
        raise EclipseError(
            f"images of {data.images.shape[1]} channels; a denoiser takes 3 (color) or 1 (gray): convert them"
        )
    config.check_size(*data.images.shape[2:])


def purified_parts(
    images: Stored, ids: Sequence[str], ready: Denoiser, how: Purification, seed: int, first: int = 0
) -> Iterator[tuple[slice, Stored]]:
    """Yield the rows of (N, C, H, W) from one on, purified, with their places, in bounded memory.

    Gray images are purified as three equal planes, of which the rounded mean is kept.

    Args:
        images: uint8, C = 3 or 1.
        ids: one a row.
        ready: the denoiser as ``prepare`` returned it, on its device.
        how: the purification.
        seed: of the noise.
        first: the row to begin with.
    """
    device = next(ready.parameters()).device
    # The network sees groups of this size in any case, so that parts which end anywhere else would cost more.
    size = group_size(images.shape[2] * images.shape[3], device.type)
    for start in range(first, len(images), size):
        rows = slice(start, min(start + size, len(images)))
        x_t = absorb(ready, as_tensor(to_color(images[rows])), ids[rows], how, seed)
        part = denoise(ready, x_t.to(device), ids[rows], how, seed).cpu().numpy()
        yield rows, gray(part) if images.shape[1] == 1 else part


def _check(images: NDArray[np.uint8] | Tensor, ids: Sequence[str]) -> None:
    fits = images.ndim == 4 and images.shape[1] in (1, 3) and 0 not in images.shape[1:]
    if images.dtype not in (np.uint8, torch.uint8) or not fits:
        raise EclipseError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; expected uint8 (N, 3, H, W), or (N, 1, H, W)"
        )
    check_ids(ids, len(images))


def _restore(state: State, out: Stored) -> int:
    """Read back the rows that were purified before a kill; return how many."""
    done = 0
    while done < len(out) and (found := state.load(f"purified {done}")):
        part = found[0]["images"].numpy()
        out[done : done + len(part)] = part
        done += len(part)
    return done


class Purifier:
    """Learn from trusted images, then purify suspicious ones: ``Purifier().fit(clean).transform(data)``.

    Args:
        preset: ``fast`` or ``paper``.
        start: of the training, ``general`` (the default of ``fast``) or ``nothing``.
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
        start: str | None = None,
        sigma: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        iterations: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.preset = preset
        self.start = start
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
            images,
            self.preset,
            start=self.start,
            iterations=self.iterations,
            sigma=self.sigma,
            seed=self.seed,
            device=self.device,
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
