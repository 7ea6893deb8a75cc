"""Sparse diffusion purification of a batch (paper Algorithm 1, lines 11-23): absorb, then denoise."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclipse.compute.device import channels_last, compute_dtype, resolve_device
from eclipse.compute.randomness import normal_like
from eclipse.data.pixels import quantize, to_unit
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import Preset, get_preset
from eclipse.diffusion.process import q_sample
from eclipse.diffusion.samplers import SAMPLERS
from eclipse.errors import EclipseError, unknown

# The network always sees groups of one size (the last filled up): kernels are chosen by batch size, and other
# kernels round differently, so that the bytes of an image would depend on how many others came with it.
GROUP_PIXELS = {"cpu": 16 * 32 * 32, "cuda": 512 * 32 * 32}
BATCH_PIXELS = 1 << 24  # noised at a time: 16 million pixels are 200 MB as float32

Pixels = TypeVar("Pixels", NDArray[np.uint8], Tensor)


@dataclass(frozen=True)
class Purification:
    """How images are purified.

    Attributes:
        sigma: the noise level t* that absorbs the poison, as a standard deviation on the [0, 1] scale.
        steps: network evaluations on the way back.
        sampler: a name in ``samplers.SAMPLERS``.
    """

    sigma: float
    steps: int
    sampler: str

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise unknown("sampler", self.sampler, SAMPLERS)
        if self.sampler == "one-step" and self.steps != 1:
            raise EclipseError(f"{self.steps} steps of the sampler 'one-step'; expected 1, or another --sampler")

    def indices(self, denoiser: Denoiser) -> tuple[int, ...]:
        """The step indices from t* down, checked against what the denoiser was trained on."""
        start = denoiser.config.schedule.index(self.sigma)
        denoiser.check_index(start)
        if self.steps > start + 1:
            raise EclipseError(
                f"{self.steps} steps from noise level {self.sigma * 255:.4g}/255; expected at most {start + 1}, "
                "the number of levels below it: lower --steps"
            )
        return denoiser.config.schedule.spaced(start, self.steps)


def purification(
    preset: Preset, sigma: float | None = None, steps: int | None = None, sampler: str | None = None
) -> Purification:
    """The purification of a preset, with some of its numbers replaced."""
    if sampler is None:
        several = steps is not None and steps > 1 and preset.steps == 1
        sampler = "ancestral" if several else preset.sampler
    if steps is None:
        steps = 1 if sampler == "one-step" else preset.steps
    return Purification(preset.sigma if sigma is None else sigma, steps, sampler)


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
    schedule = denoiser.config.schedule
    t_star = how.indices(denoiser)[0]
    x_p = 2.0 * to_unit(images) - 1.0
    eps = torch.from_numpy(normal_like(seed, ids, t_star, images.shape[1:], purpose="absorb"))
    return q_sample(schedule, x_p, torch.tensor([t_star]), eps)


@torch.inference_mode()
def denoise(denoiser: Denoiser, x: Tensor, ids: Sequence[str], how: Purification, seed: int) -> Tensor:
    """Bring x_t* back to images (lines 15-22).

    Args:
        denoiser: as ``prepare`` returned it.
        x: from ``absorb``.
        ids: one a row, for the noise of ancestral steps.
        how: names the sampler and its steps.
        seed: of that noise.

    Returns:
        Purified images, float32 on [0, 1], (B, 3, H, W).
    """
    indices = how.indices(denoiser)
    size = group_size(x.shape[-2] * x.shape[-1], x.device.type)
    groups = []
    for first in range(0, len(x), size):
        real = min(size, len(x) - first)
        rows = torch.arange(size).clamp(max=real - 1)  # the last one fills the group up
        names = ids[first : first + real]

        def noise(t: int, rows: Tensor = rows, names: Sequence[str] = names) -> Tensor:
            z = torch.from_numpy(normal_like(seed, names, t, x.shape[1:], purpose="denoise"))
            return z[rows].to(x.device)

        group = x[first + rows].contiguous(memory_format=torch.channels_last)
        groups.append(SAMPLERS[how.sampler](denoiser, group, denoiser.config.schedule, indices, noise)[:real])
    return torch.cat(groups).add_(1.0).div_(2.0)


def group_size(pixels: int, device_type: str) -> int:
    """How many images of this many pixels the network sees at a time: a power of two."""
    # Smaller images than 8x8 cost the network as much as those: it pads them.
    fitting = GROUP_PIXELS[device_type] // max(pixels, 64)
    return 1 << max(0, fitting.bit_length() - 1)


def prepare(denoiser: Denoiser, device: str) -> Denoiser:
    """A copy of a denoiser, ready to run fast on a device: in its precision and memory layout."""
    dtype, _ = compute_dtype(device)
    return channels_last(copy.deepcopy(denoiser).to(device, dtype).eval())


def purify(
    images: Pixels,
    denoiser: Denoiser,
    *,
    sigma: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    batch: int = 256,
    device: str = "auto",
) -> Pixels:
    """Purify images in memory.

    Args:
        images: uint8, (N, 3, H, W), as a NumPy array or a torch tensor.
        denoiser: from ``train_denoiser`` or ``load_denoiser``; it stays as it is.
        sigma: noise level t* as a standard deviation on the [0, 1] scale (32 / 255); the preset's by default.
        steps: network evaluations; the preset's by default.
        sampler: a name in ``samplers.SAMPLERS``; the preset's by default.
        seed: decides the noise, together with the ids.
        ids: one stable identity a row; by default the row number.
        batch: images noised at a time, fewer where they are large; does not change the result.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The same kind, uint8, (N, 3, H, W), in the same order; a tensor on the device that it came from.

    Raises:
        EclipseError: wrong type or shape, a level or size that the denoiser was not made for.
    """
    names = [str(i) for i in range(len(images))] if ids is None else ids
    _check(images, names, batch)
    denoiser.check_size(*images.shape[2:])
    how = purification(preset_of(denoiser), sigma, steps, sampler)
    how.indices(denoiser)
    where = resolve_device(device)
    ready = prepare(denoiser, where)
    stored = images.cpu().numpy() if isinstance(images, Tensor) else images
    purified = np.empty(stored.shape, np.uint8)
    batch = min(batch, max(1, BATCH_PIXELS // (images.shape[2] * images.shape[3])))
    for first in range(0, len(stored), batch):
        rows = slice(first, first + batch)
        x_t = absorb(ready, torch.from_numpy(stored[rows].copy()), names[rows], how, seed)
        purified[rows] = quantize(denoise(ready, x_t.to(where), names[rows], how, seed)).cpu().numpy()
    return torch.from_numpy(purified).to(images.device) if isinstance(images, Tensor) else purified


def _check(images: NDArray[np.uint8] | Tensor, ids: Sequence[str], batch: int) -> None:
    if images.dtype not in (np.uint8, torch.uint8) or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[1:]:
        raise EclipseError(f"images are {images.dtype} of shape {tuple(images.shape)}; expected uint8 (N, 3, H, W)")
    if len(ids) != len(images):
        raise EclipseError(f"{len(ids)} ids for {len(images)} images; expected one id per image")
    if batch < 1:
        raise EclipseError(f"batch {batch}; expected 1 or more images at a time")


def preset_of(denoiser: Denoiser) -> Preset:
    """The preset whose purification fits a denoiser; imported ones are the paper's."""
    name = denoiser.config.preset
    return get_preset("paper" if name == "imported" else name)
