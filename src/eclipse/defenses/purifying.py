"""What the defenses that purify by diffusion share: a denoiser of trusted images, and a set purified with it."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eclipse.compute.device import resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import quantize
from eclipse.defenses.denoisers import TELL_EVERY_S, kept_denoiser, to_color
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import get_preset
from eclipse.diffusion.trusted import levels, settings
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Purification, absorb, denoise, group_size, prepare
from eclipse.runs.state import State, Work

SAVE_EVERY_S = 30.0  # what a kill may cost, as with the training of a denoiser

_GFLOP = {"unet": 16.3, "compact": 0.21}  # of one pass of one 32x32 image, a multiply-add counted as two
_VICTIM_GFLOP = 3 * 1.11 * 80 * 50_000  # ResNet-18, 80 epochs of 50,000 such images, forward and backward


@dataclass(frozen=True)
class TrainedPurification:
    """A denoiser to be trained on trusted images, and how to purify with it.

    Attributes:
        preset: of the denoiser, ``fast`` or ``paper``.
        how: noise level, steps and sampler.
        iterations: training steps; None for the preset's.

    Raises:
        EclipseError: a preset, noise level, or number that cannot be.
    """

    preset: str
    how: Purification
    iterations: int | None

    def __post_init__(self) -> None:
        self.how.indices(self._planned())
        settings((), self.preset, self.iterations, None, self.how.sigma, seed=0)  # refuses less than one iteration

    def purify(self, data: ImageSet, trusted: ImageSet, work: Work) -> ImageSet:
        """Train the denoiser, or load it, and purify; images that it does not take are refused before its training."""
        check_images(data, self._planned())
        denoiser = kept_denoiser(trusted, self.preset, self.how.sigma, work, iterations=self.iterations)
        return purify_set(data, denoiser, self.how, work)

    def settings(self) -> dict[str, Any]:
        """Every number of training and purification, the preset's spelled out: a preset may be changed one day."""
        training = get_preset(self.preset).training
        given = {} if self.iterations is None else {"iterations": self.iterations}
        network = asdict(self._planned().config)
        return {**asdict(self.how), "network": network, "training": {**asdict(training), **given}}

    def cost(self) -> float:
        """Operations of training and of purifying 50,000 images, per those of training a ResNet-18 for 80 epochs."""
        chosen = get_preset(self.preset)
        visits = 3 * chosen.training.batch * (self.iterations or chosen.training.iterations)
        return _GFLOP[chosen.denoiser.architecture] * (visits + 50_000 * self.how.steps) / _VICTIM_GFLOP

    def _planned(self) -> Denoiser:
        """What is known of the denoiser before it is trained: its settings, not its network."""
        chosen = get_preset(self.preset)
        return Denoiser(replace(chosen.denoiser, t_max=levels(chosen, self.how.sigma)), nn.Identity())


def purify_set(data: ImageSet, denoiser: Denoiser, how: Purification, work: Work) -> ImageSet:
    """Purify all images of a set, with the bytes of ``purification.purify``; a killed purification goes on.

    Gray images are purified as three equal planes, of which the rounded mean is kept, as ``eclipse purify`` does it.

    Raises:
        EclipseError: images of a size or channels, or a noise level, that the denoiser was not made for.
    """
    check_images(data, denoiser)
    how.indices(denoiser)
    where, seed, state = resolve_device(work.device), work.seed, work.state
    ready, images, out = prepare(denoiser, where), to_color(data.images), np.empty_like(data.images)
    # The network sees groups of this size in any case, so that parts which end anywhere else would cost more.
    size = group_size(images.shape[2] * images.shape[3], torch.device(where).type)
    done = saved = _restore(state, out)
    told = kept = time.monotonic()
    while done < len(data):
        rows = slice(done, min(done + size, len(data)))
        x_t = absorb(ready, torch.from_numpy(images[rows].copy()), data.ids[rows], how, seed)
        purified = quantize(denoise(ready, x_t.to(where), data.ids[rows], how, seed)).cpu().numpy()
        out[rows], done, now = _with_channels(purified, len(out[0])), rows.stop, time.monotonic()
        if now - kept >= SAVE_EVERY_S:
            state.save(f"purified {saved}", {"images": torch.from_numpy(out[saved:done])}, {})
            saved, kept = done, now
        if now - told >= TELL_EVERY_S or done == len(data):
            state.tell("purification", done, len(data))
            told = now
    return data.with_images(out)


def check_images(data: ImageSet, denoiser: Denoiser) -> None:
    """Refuse images that a denoiser does not take."""
    if data.images.shape[1] not in (1, 3):
        raise EclipseError(
            f"images of {data.images.shape[1]} channels; a denoiser takes 3 (color) or 1 (gray): convert them"
        )
    denoiser.check_size(*data.images.shape[2:])


def _restore(state: State, out: NDArray[np.uint8]) -> int:
    """Read back the rows that were purified before a kill; return how many."""
    done = 0
    while done < len(out) and (found := state.load(f"purified {done}")):
        part = found[0]["images"].numpy()
        out[done : done + len(part)] = part
        done += len(part)
    return done


def _with_channels(purified: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Color images as they are, or gray: the rounded mean of the planes."""
    if channels == 3:
        return purified
    gray: NDArray[np.uint8] = purified.mean(axis=1, keepdims=True, dtype=np.float32).round().astype(np.uint8)
    return gray
