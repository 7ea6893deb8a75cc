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
from eclipse.runs.state import DENOISER, State

TELL_EVERY_S = 1.0


def kept_denoiser(
    trusted: ImageSet, preset: str, sigma: float, *, iterations: int | None, seed: int, device: str, stages: State
) -> Denoiser:
    """Train a denoiser on trusted images, or load the one that was trained on them before.

    It lies in ``stages.shared``, or else in ``stages.folder``, in a folder named by all that decides its weights. A
    killed training goes on; where another process is at it, wait. With neither folder it stays in memory.

    Args:
        trusted: clean images of 1 or 3 channels; labels are not used.
        preset: ``fast`` or ``paper``.
        sigma: the highest noise level that it must serve, on the [0, 1] scale.
        iterations: training steps; None for the preset's.
        seed: of the training.
        device: where to train.
        stages: names the folders, and is told the progress.

    Raises:
        EclipseError: too few trusted images, or ones that a denoiser of this preset does not take.
    """
    images, where = to_color(trusted.images), resolve_device(device)
    told = _Told(stages, iterations or get_preset(preset).training.iterations)
    how: dict[str, Any] = {"iterations": iterations, "sigma": sigma, "seed": seed, "device": where, "on_step": told}
    place = stages.shared or stages.folder
    if place is None:
        return train_denoiser(images, preset, **how)
    place.mkdir(parents=True, exist_ok=True)
    folder = place / _name(images, preset, iterations, sigma, seed, where)
    with locked(folder.with_name(f".{folder.name}.lock"), folder, wait=True):
        denoiser = train_into(folder, images, preset, minutes=None, **how)
    stages.tell(DENOISER, told.total, told.total, seconds=float(cast(float, denoiser.config.trained["seconds"])))
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

    def __init__(self, stages: State, total: int) -> None:
        self.stages, self.total, self.last = stages, total, -TELL_EVERY_S

    def __call__(self, step: TrainStep) -> None:
        if step.seconds - self.last >= TELL_EVERY_S or step.step == self.total:
            self.last = step.seconds
            self.stages.tell(DENOISER, step.step, self.total, loss=step.loss)
