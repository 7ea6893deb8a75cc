"""Train a denoiser on the sparse set of trusted images (paper sec. 3.3, Algorithm 1 lines 1-10)."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eclipse.compute.device import channels_last, seeded
from eclipse.compute.randomness import stream
from eclipse.data.pixels import to_unit
from eclipse.diffusion.denoiser import Denoiser
from eclipse.diffusion.loss import hybrid_loss
from eclipse.diffusion.presets import Training
from eclipse.runs.state import Work

CHECKPOINT_EVERY_S = 30.0
_STAGE = "denoiser"

Image: TypeAlias = NDArray[np.uint8]
Images: TypeAlias = Sequence[Image] | NDArray[np.uint8]
"""Images (3, H, W) of any sizes, or (N, 3, H, W)."""


@dataclass(frozen=True)
class TrainStep:
    """The state of training after one optimizer step.

    Attributes:
        step: steps done, counted from 1 and over all resumed runs.
        progress: the share of the whole that is done, in (0, 1].
        loss: the batch's mean loss.
        images_per_s: of this run.
        seconds: training time so far, over all resumed runs.
        seconds_left: the estimate for the rest.
    """

    step: int
    progress: float
    loss: float
    images_per_s: float
    seconds: float
    seconds_left: float

    @property
    def what(self) -> str:
        """For people."""
        return "training the denoiser"

    @property
    def share(self) -> float:
        """The progress."""
        return self.progress

    @property
    def figures(self) -> str:
        """Loss and speed."""
        return f"loss {self.loss:.3f}, {self.images_per_s:.0f} images/s"


def train(
    denoiser: Denoiser,
    images: Images,
    training: Training,
    work: Work,
    *,
    dtype: torch.dtype,
    minutes: float | None = None,
) -> Iterator[TrainStep]:
    """Train ``denoiser`` in place and yield after every step; at the end its weights are the averaged ones.

    The draws of a step depend on (seed, step) alone, so a resumed run equals an undisturbed one.

    Args:
        denoiser: with fresh weights.
        images: the sparse set, uint8 (3, H, W) each, of any sizes that the denoiser takes.
        training: see ``Training``.
        work: its seed decides order, crops, noise levels, noise and dropout; its state keeps the training every half
            minute, for the caller to delete when the denoiser is safe.
        dtype: the precision of passes through the network.
        minutes: stop after this time instead of after ``training.iterations``.
    """
    seed, device = work.seed, work.device
    run = _Run(denoiser.to(device), training, minutes)
    if found := work.state.load(_STAGE):
        run.restore(*found)
    crop = crop_size(images, training.crop)
    autocast = torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)
    began = saved = time.monotonic()
    before, first = run.seconds, run.step
    while run.progress < 1.0:
        batch = draw(images, training, crop, denoiser.config.t_max, seed, run.step)
        x0, t, noise = (x.to(device) for x in batch)
        with autocast, seeded(seed, "dropout", run.step, device):
            losses = hybrid_loss(denoiser, denoiser.config.schedule, x0, t, noise).loss
        run.descend(losses.mean())
        now = time.monotonic()
        run.seconds = before + now - began
        if now - saved > CHECKPOINT_EVERY_S and run.progress < 1.0:
            work.state.save(_STAGE, run.tensors(), {"step": run.step, "seconds": run.seconds})
            saved = now
        yield run.event(losses.mean().item(), (run.step - first) * training.batch / (now - began))
    run.finish()


def draw(
    images: Images, training: Training, crop: int | None, t_max: int, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one batch: images on [-1, 1] from the enlarged set D_A, step indices and noise.

    D_A is visited in epochs; each is a new order of the images and their M copies.
    """
    total = len(images) * (training.copies + 1)
    first, last = step * training.batch, (step + 1) * training.batch - 1
    epochs = range(first // total, last // total + 1)
    order = np.concatenate([_epoch_order(seed, epoch, total) for epoch in epochs])
    rows = order[first % total :][: training.batch] % len(images)
    rng = stream(seed, "batch", step, "training")
    pixels = torch.from_numpy(np.stack([_crop(images[row], crop, rng) for row in rows]))
    t = torch.from_numpy(rng.integers(0, t_max, size=training.batch))
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return 2.0 * to_unit(pixels) - 1.0, t, noise


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, total: int) -> NDArray[np.int64]:
    return stream(seed, "order", epoch, "training").permutation(total)


def crop_size(images: Images, largest: int | None) -> int | None:
    """One crop for all: the median of the shorter sides, at most ``largest``; None where whole images will do."""
    if len({image.shape for image in images}) == 1 and (largest is None or max(images[0].shape[1:]) <= largest):
        return None
    shorter = int(np.median([min(image.shape[1:]) for image in images]))
    return min(shorter, largest or shorter)


def _crop(image: Image, size: int | None, rng: np.random.Generator) -> Image:
    if size is None:
        return image
    below, right = (max(0, size - side) for side in image.shape[1:])
    image = np.pad(image, ((0, 0), (0, below), (0, right)), mode="edge")
    top, left = rng.integers(0, (image.shape[1] - size + 1, image.shape[2] - size + 1))
    return image[:, top : top + size, left : left + size]


class _Run:
    """The state of a training run: weights, their average, the optimizer, and how far it is."""

    def __init__(self, denoiser: Denoiser, training: Training, minutes: float | None) -> None:
        self.denoiser = channels_last(denoiser).train()
        self.training, self.minutes = training, minutes
        self.weights = dict(denoiser.named_parameters())
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=training.lr, weight_decay=0.0)
        for w in self.weights.values():
            # As AdamW would make it at its first step; made here, a saved state can be read into it.
            moments = {"exp_avg": torch.zeros_like(w), "exp_avg_sq": torch.zeros_like(w)}
            self.optimizer.state[w] = {"step": torch.tensor(0.0), **moments}
        self.step = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """The share of the whole that is done; 1 or more at the end."""
        if self.minutes is not None:
            return self.seconds / (self.minutes * 60)
        return self.step / self.training.iterations

    def descend(self, loss: Tensor) -> None:
        factor = 0.5 * (1.0 + math.cos(math.pi * self.progress)) if self.training.decay else 1.0
        # A short warm-up: the moments of Adam are noise in the first steps.
        self.optimizer.param_groups[0]["lr"] = self.training.lr * factor * min(1.0, (self.step + 1) / 100)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimizer.step()
        self.step += 1
        # The average starts at random weights; a decay that grows with the steps forgets them.
        decay = min(self.training.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.values()), [w.detach() for w in self.weights.values()], 1 - decay)

    def event(self, loss: float, images_per_s: float) -> TrainStep:
        left = max(0.0, self.seconds * (1.0 / self.progress - 1.0))
        return TrainStep(self.step, min(self.progress, 1.0), loss, images_per_s, self.seconds, left)

    def finish(self) -> None:
        with torch.no_grad():
            for name, w in self.weights.items():
                w.copy_(self.average[name])
        self.optimizer.zero_grad(set_to_none=True)
        self.denoiser.eval()

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        for name, x in self.tensors().items():
            x.copy_(tensors[name])
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])

    def tensors(self) -> dict[str, Tensor]:
        """All that a state consists of but its numbers; the tensors themselves, not copies."""
        moments = {f"{key}/{name}": x for name, w in self.weights.items() for key, x in self.optimizer.state[w].items()}
        weights = {f"weights/{name}": w.detach() for name, w in self.weights.items()}
        return {**weights, **{f"average/{name}": x for name, x in self.average.items()}, **moments}
