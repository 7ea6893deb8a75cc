"""Sparse diffusion purification of a batch (paper Algorithm 1, lines 11-23): absorb, then denoise."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eclipse.compute.device import channels_last, compute_dtype
from eclipse.compute.randomness import normal_like
from eclipse.data.pixels import quantize, to_unit
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig
from eclipse.diffusion.presets import Preset
from eclipse.diffusion.process import q_sample
from eclipse.diffusion.samplers import SAMPLERS
from eclipse.errors import EclipseError, unknown

_SLAB_PIXELS = 1 << 22  # noised at a time
# The network always sees groups of one size (the last filled up): kernels are chosen by batch size, and other
# kernels round differently, so that the bytes of an image would depend on how many others came with it.
GROUP_PIXELS = {"cpu": 16 * 32 * 32, "cuda": 512 * 32 * 32}


@dataclass(frozen=True)
class Purification:
    """How images are purified, resolved: see ``purification``.

    Attributes:
        sigma: the noise level t* that absorbs the poison, as a standard deviation on the [0, 1] scale.
        steps: network evaluations on the way back.
        sampler: a name in ``samplers.SAMPLERS``.
        indices: the step indices from t* down, of the schedule that the denoiser was trained for.
    """

    sigma: float
    steps: int
    sampler: str
    indices: tuple[int, ...]

    def numbers(self) -> dict[str, Any]:
        """Noise level, steps and sampler by name."""
        return {"sigma": self.sigma, "steps": self.steps, "sampler": self.sampler}


def purification(
    preset: Preset,
    config: DenoiserConfig,
    *,
    sigma: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
) -> Purification:
    """Resolve the purification of a preset, with some of its numbers replaced, for a denoiser, trained or not yet.

    Raises:
        EclipseError: numbers that do not go together, or a level that the denoiser does not serve.
    """
    if sampler is None:
        several = steps is not None and steps > 1 and preset.steps == 1
        sampler = "ancestral" if several else preset.sampler
    if steps is None:
        steps = 1 if sampler == "one-step" else preset.steps
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if sampler == "one-step" and steps != 1:
        raise EclipseError(f"{steps} steps of the sampler 'one-step'; expected 1, or another --sampler")
    sigma = preset.sigma if sigma is None else sigma
    start = config.schedule.index(sigma)
    config.check_index(start)
    if steps > start + 1:
        raise EclipseError(
            f"{steps} steps from noise level {sigma * 255:.4g}/255; expected at most {start + 1}, "
            "the number of levels below it: lower --steps"
        )
    return Purification(sigma, steps, sampler, config.schedule.spaced(start, steps))


def absorb(denoiser: Denoiser, images: Tensor, ids: Sequence[str], how: Purification, seed: int) -> Tensor:
    """Noise images to t*, where poisoned and clean ones are hard to tell apart (Theorem 1; lines 12-14).

    Args:
        denoiser: names the schedule.
        images: uint8, (B, 3, H, W).
        ids: one a row; the noise of an image depends on (seed, id) alone.
        how: names t*.
        seed: of the noise.

    Returns:
        x_t*, float32, (B, 3, H, W), on [-1, 1] but for the noise.
    """
    t_star = how.indices[0]
    x_t = torch.from_numpy(normal_like(seed, ids, t_star, images.shape[1:], purpose="absorb"))
    for x, eps in _slabs(images, x_t):  # in place: one copy of a large image
        x_p = 2.0 * to_unit(x) - 1.0
        eps.copy_(q_sample(denoiser.config.schedule, x_p, torch.tensor([t_star]), eps))
    return x_t


@torch.inference_mode()
def denoise(denoiser: Denoiser, x: Tensor, ids: Sequence[str], how: Purification, seed: int) -> Tensor:
    """Bring x_t* back to images (lines 15-22).

    Args:
        denoiser: as ``prepare`` returned it.
        x: from ``absorb``; the memory of large images is used again.
        ids: one a row, for the noise of ancestral steps.
        how: names the sampler and its steps.
        seed: of that noise.

    Returns:
        Purified images, uint8, (B, 3, H, W).
    """
    size = group_size(x.shape[-2] * x.shape[-1], x.device.type)
    images = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    for first in range(0, len(x), size):
        real = min(size, len(x) - first)
        names = ids[first : first + real]

        def noise(t: int, names: Sequence[str] = names) -> Tensor:
            z = torch.from_numpy(normal_like(seed, names, t, x.shape[1:], purpose="denoise"))
            return _filled(z, size).to(x.device)

        group = _filled(x[first : first + real], size)
        x0 = SAMPLERS[how.sampler](denoiser, group, denoiser.config.schedule, how.indices, noise)
        for part, stored in _slabs(x0[:real], images[first : first + real]):
            stored.copy_(quantize(part.add(1.0).div_(2.0)))
    return images


def check_ids(ids: Sequence[str], count: int) -> None:
    """Refuse ids that are not one text for each of so many images."""
    if len(ids) != count:
        raise EclipseError(f"{len(ids)} ids for {count} images; expected one id per image")
    if not all(isinstance(id, str) for id in ids):
        raise EclipseError("ids that are no text; expected one text per image: use str() on numbers")


def _filled(images: Tensor, size: int) -> Tensor:
    """Fill a group up with copies of its last one."""
    return images if len(images) == size else images[torch.arange(size).clamp(max=len(images) - 1)]


def _slabs(*images: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut images (B, C, H, W) into parts of a few rows, so that what is made of large ones on the way is small."""
    rows = max(1, _SLAB_PIXELS // (len(images[0]) * images[0].shape[3]))
    return zip(*(torch.split(some, rows, 2) for some in images), strict=True)


def group_size(pixels: int, device_type: str) -> int:
    """How many images of this many pixels the network sees at a time: a power of two."""
    # Smaller images than 8x8 cost the network as much as those: it pads them.
    fitting = GROUP_PIXELS[device_type] // max(pixels, 64)
    return 1 << max(0, fitting.bit_length() - 1)


def prepare(denoiser: Denoiser, device: str) -> Denoiser:
    """A copy of a denoiser, ready to run fast on a device: in its precision and memory layout."""
    dtype, _ = compute_dtype(device)
    return channels_last(copy.deepcopy(denoiser).to(device, dtype).eval())
