"""The one training loop: a data set as one uint8 tensor, batched augmentation, deterministic by seed."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.compute.device import autocast, channels_last, seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import as_tensor, to_unit
from eclipse.errors import EclipseError, unknown

Augment: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Adversary: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "triangle": lambda progress: min(progress / 0.2, (1 - progress) / 0.8),
}
"""From the share of training that is done to the factor of the learning rate."""


@dataclass(frozen=True)
class Recipe:
    """How a victim is trained: SGD with momentum, random crop and flip.

    Attributes:
        batch: images a step; the last ones of an epoch, fewer than a batch, are left out of it.
        schedule: ``constant``, ``cosine`` (half of one, down to zero) or ``triangle`` (up for the first fifth, then
            down to zero).
        pad: zero padding before the random crop; 0 switches the crop off.
        flip: mirror each image with probability 1/2.
        milestones: shares of the training after each of which the learning rate is a tenth of what it was.
        warmup: share of the training in which the learning rate grows from zero, whatever the schedule.
        clip: largest norm of the gradient; None for any.
    """

    epochs: int
    batch: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    schedule: str = "constant"
    pad: int = 4
    flip: bool = True
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise unknown("learning rate schedule", self.schedule, SCHEDULES)

    def rate(self, progress: float) -> float:
        """The learning rate when this share of the training is done."""
        passed = sum(progress >= milestone for milestone in self.milestones)
        warm = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.lr * SCHEDULES[self.schedule](progress) * warm * 0.1**passed


RECIPES = {
    # Paper sec. 4.1: constant lr 0.1, momentum 0.9, no weight decay, batch 128, 80 epochs.
    "paper": Recipe(epochs=80, batch=128, lr=0.1),
    # The most accurate in a minute of two processor cores (docs/log).
    "fast": Recipe(epochs=12, batch=128, lr=0.2, weight_decay=5e-4, nesterov=True, schedule="triangle", pad=2),
}


def recipe_with(name: str, epochs: int | None) -> Recipe:
    """A recipe by its name in ``RECIPES``, with another number of epochs if wanted."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if epochs is not None and epochs < 1:
        raise EclipseError(f"{epochs} epochs; expected at least 1")
    return RECIPES[name] if epochs is None else replace(RECIPES[name], epochs=epochs)


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training did; losses and accuracies are means over its batches."""

    epoch: int
    loss: float
    train_accuracy: float
    images_per_s: float


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD as a recipe has it, over the parameters of a network."""
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def fit(
    network: nn.Module,
    train: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    augment: Augment | None = None,
    adversary: Adversary | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    done: int = 0,
    compiled: bool = False,
) -> Iterator[Epoch]:
    """Train ``network`` in place and yield after every epoch, with the network in evaluation mode.

    To go on after an interruption, bring network and optimizer into the state that they had after an epoch and say
    which: the result is the same to the byte.

    Args:
        network: maps [0, 1] images to logits; its weights are the caller's (seeded before construction).
        train: images of one size with labels.
        recipe: see ``Recipe`` and ``RECIPES``.
        seed: decides order, crops, flips and whatever draws from torch's global generators: dropout, ``augment``.
        device: where to train; the network is moved there.
        augment: called on every batch ([0, 1] images, labels) after crop and flip; the compensation C goes here.
            It may return labels as they are or as probabilities, (B, classes).
        adversary: for adversarial training: called last, with the network in evaluation mode, the images and the
            labels; returns the images to train on.
        optimizer: from ``make_optimizer``, for callers that keep its state; None for a new one.
        done: epochs that were done before.
        compiled: compile the network first (torch.compile), which pays in long trainings on a GPU.

    Raises:
        EclipseError: the set has no labels, or fewer than two images, which is too little for BatchNorm.
    """
    labels = torch.tensor(train.require_labels("training a victim"), device=device)
    if len(train) < 2:
        raise EclipseError(f"{len(train)} training images; expected at least 2 to train a victim")
    images = as_tensor(train.images).to(device)
    channels_last(network.to(device))
    optimizer = optimizer or make_optimizer(network, recipe)
    forward = cast(nn.Module, torch.compile(network)) if compiled else network
    batches = max(1, len(train) // recipe.batch)
    for epoch in range(done + 1, recipe.epochs + 1):
        began, totals = time.perf_counter(), torch.zeros(2, device=device)
        network.train()
        with seeded(seed, "victim", epoch, device):
            order = torch.randperm(len(train), device=device)[: batches * recipe.batch]
            for i, rows in enumerate(torch.split(order, recipe.batch)):
                progress = (epoch - 1 + i / batches) / recipe.epochs
                optimizer.param_groups[0]["lr"] = recipe.rate(progress)
                x, y = to_unit(crop_and_flip(images[rows], recipe.pad, recipe.flip)), labels[rows]
                if augment is not None:
                    x, y = augment(x, y)
                if adversary is not None:
                    network.eval()
                    x = adversary(network, x, y)
                    network.train()
                totals += descend(forward, optimizer, x, y, recipe.clip)
        network.eval()
        loss, hits = (totals / batches).tolist()
        yield Epoch(epoch, loss, hits, len(order) / (time.perf_counter() - began))


def descend(
    network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, clip: float | None = None
) -> Tensor:
    """Take one step of training on a batch; return its loss and its share of hits, (2,)."""
    with autocast(x.device):
        logits = cast(Tensor, network(x.contiguous(memory_format=torch.channels_last)))
    logits = logits.float()
    loss = F.cross_entropy(logits, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    hits = logits.argmax(1) == (y if y.ndim == 1 else y.argmax(1))
    return torch.stack([loss.detach(), hits.float().mean()])


def crop_and_flip(images: Tensor, pad: int, flip: bool) -> Tensor:
    """Crop each image at its own random place of the zero-padded image, and mirror half of them."""
    n, _, height, width = images.shape
    if pad:
        windows = F.pad(images, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
        top, left = torch.randint(0, 2 * pad + 1, (2, n), device=images.device)
        images = windows[torch.arange(n, device=images.device), :, top, left]
    if flip:
        mirrored = torch.rand(n, device=images.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def unit_rows(images: ImageSet, rows: slice, device: str) -> Tensor:
    """Some images of a set in [0, 1], in the memory layout that networks like."""
    x = to_unit(as_tensor(images.images[rows]).to(device))
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def logits(network: nn.Module, images: ImageSet, *, device: str = "cpu", batch: int = 500) -> Tensor:
    """What ``network``, on ``device``, makes of images: float32 on the processor, (N, classes); its mode stays."""
    mode = network.training
    network.eval()
    found = list[Tensor]()
    for first in range(0, max(1, len(images)), batch):  # of no images, no rows
        x = unit_rows(images, slice(first, first + batch), device)
        with autocast(x.device):
            found.append(network(x).float().cpu())
    network.train(mode)
    return torch.cat(found)


def accuracy(network: nn.Module, test: ImageSet, *, device: str = "cpu", batch: int = 500) -> float:
    """The share of ``test`` that ``network``, on ``device``, classifies rightly, in [0, 1]; its mode stays."""
    labels = torch.tensor(test.require_labels("measuring accuracy"))
    return int((logits(network, test, device=device, batch=batch).argmax(1) == labels).sum()) / len(test)
