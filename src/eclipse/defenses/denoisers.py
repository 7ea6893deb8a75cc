"""Denoisers that several works share: each is trained once, on the trusted images of all of them."""

import hashlib
import json
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.compute.device import resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.presets import get_preset
from eclipse.diffusion.training import TrainStep
from eclipse.diffusion.trusted import settings, train_denoiser, train_into
from eclipse.runs.files import locked
from eclipse.runs.state import DENOISER, State, Work

TELL_EVERY_S = 1.0


def kept_denoiser(trusted: ImageSet, preset: str, sigma: float, work: Work, *, iterations: int | None) -> Denoiser:
    """Train a denoiser on trusted images, or load the one that was trained on them before.

    It lies in the folder ``shared`` of the work's state, or else in its ``folder``, in a folder named by all that
    decides its weights. A killed training goes on; where another process is at it, wait. With neither it stays in
    memory.

    Args:
        trusted: clean images of 1 or 3 channels; labels are not used.
        preset: ``fast`` or ``paper``.
        sigma: the highest noise level that it must serve, on the [0, 1] scale.
        work: seed and device of the training; its state names the folders and is told the progress.
        iterations: training steps; None for the preset's.

    Raises:
        EclipseError: too few trusted images, or ones that a denoiser of this preset does not take.
    """
    images, where = to_color(trusted.images), resolve_device(work.device)
    seed, state = work.seed, work.state
    told = _Told(state, iterations or get_preset(preset).training.iterations)
    how: dict[str, Any] = {"iterations": iterations, "sigma": sigma, "seed": seed, "device": where, "on_step": told}
    place = state.shared or state.folder
    if place is None:
        return train_denoiser(images, preset, **how)
    place.mkdir(parents=True, exist_ok=True)
    folder = place / _name(images, preset, iterations, sigma, seed, where)
    with locked(folder.with_name(f".{folder.name}.lock"), folder, wait=True):
        denoiser = train_into(folder, images, preset, minutes=None, **how)
    state.tell(DENOISER, told.total, told.total, seconds=float(cast(float, denoiser.config.trained["seconds"])))
    return denoiser


def to_color(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Three equal planes of gray images, (N, 3, H, W); others as they are."""
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def _name(images: NDArray[np.uint8], preset: str, iterations: int | None, sigma: float, seed: int, device: str) -> str:
    """A name for what decides the weights: the images, every number of the training, and the kind of device."""
    chosen = get_preset(preset)
    decides = {
        **settings(images, preset, iterations, None, sigma, seed),
        "network": asdict(chosen.denoiser),
        "training": asdict(chosen.training),
        "device": torch.device(device).type,
    }
    text = json.dumps(decides, sort_keys=True)
    return f"{preset}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


class _Told:
    """Tells the steps of a training, about one a second."""

    def __init__(self, state: State, total: int) -> None:
        self.state, self.total, self.last = state, total, -TELL_EVERY_S

    def __call__(self, step: TrainStep) -> None:
        if step.seconds - self.last >= TELL_EVERY_S or step.step == self.total:
            self.last = step.seconds
            self.state.tell(DENOISER, step.step, self.total, loss=step.loss)
