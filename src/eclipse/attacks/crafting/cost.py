"""What a crafting costs: network passes, and minutes at a speed that is measured."""

import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from eclipse.attacks.attack import Attack
from eclipse.classifiers.fit import unit_rows
from eclipse.compute.device import channels_last
from eclipse.data.imageset import ImageSet
from eclipse.runs.manifest import duration
from eclipse.runs.state import Work

LONG_MINUTES = 30.0  # from which on a crafting on a processor deserves a word
TIMED_PIXELS = {"cpu": 32 * 32 * 32, "cuda": 512 * 32 * 32}  # of a first batch to measure the speed on


@dataclass(frozen=True)
class Surrogate:
    """The network that an attack is made with.

    Attributes:
        arch: its name.
        parameters: how many.
    """

    arch: str
    parameters: int


@dataclass(frozen=True)
class Cost:
    """What a crafting will take.

    Attributes:
        surrogate: with which.
        passes: forward and backward passes of the surrogate for each image, at most.
        images: how many.
        images_per_s: passes a second, measured.
        device: where.
    """

    surrogate: Surrogate
    passes: float
    images: int
    images_per_s: float
    device: str

    @property
    def minutes(self) -> float:
        """How long all passes take."""
        return self.passes * self.images / self.images_per_s / 60

    def describe(self) -> dict[str, str]:
        """The cost in words."""
        return {
            "surrogate": f"{self.surrogate.arch}, {self.surrogate.parameters:,} parameters",
            "passes": f"at most {self.passes:,.0f} an image, {self.passes * self.images:,.0f} in all",
            "time": f"{duration(self.minutes)} at {self.images_per_s:,.0f} passes a second, measured on two batches",
        }

    def is_long(self) -> bool:
        """Whether it takes so long on a processor that the small scale should be thought of."""
        return torch.device(self.device).type == "cpu" and self.minutes > LONG_MINUTES


def surrogate_of(attack: Attack, clean: ImageSet, work: Work) -> Surrogate | None:
    """The surrogate of an attack on a set; None where it needs none."""
    network = attack.surrogate(clean, work)
    return None if network is None else _described(attack, network)


def _described(attack: Attack, network: nn.Module) -> Surrogate:
    arch = getattr(attack, "arch", type(network).__name__)
    return Surrogate(arch, sum(weights.numel() for weights in network.parameters()))


def expected_cost(attack: Attack, clean: ImageSet, work: Work) -> Cost | None:
    """Measure what the crafting for a set will take; None where no network is needed."""
    network = attack.surrogate(clean, work)
    if network is None:
        return None
    speed = passes_per_s(network, clean, work.device)
    return Cost(_described(attack, network), attack.passes(), len(clean), speed, work.device)


def passes_per_s(network: nn.Module, clean: ImageSet, device: str) -> float:
    """Forward and backward passes a second: a small batch as a warm-up, then one that takes half a second, about."""
    height, width = clean.images.shape[2:]
    least = max(2, TIMED_PIXELS[torch.device(device).type] // (height * width))
    channels_last(network.to(device))
    speed = _timed(network, clean[:least], device)
    return _timed(network, clean[: max(least, min(8 * least, int(speed / 2)))], device)


def _timed(network: nn.Module, batch: ImageSet, device: str) -> float:
    """Images a second, forward, and backward down to the weights and the pixels."""
    began = time.perf_counter()
    y = torch.tensor(batch.require_labels("poisoning"), device=device)
    x = unit_rows(batch, slice(None), device).requires_grad_()
    loss = F.cross_entropy(network(x), y)
    gradient = torch.autograd.grad(loss, [x, *network.parameters()], allow_unused=True)[0]
    float(gradient.sum())  # waits for the device
    return len(batch) / (time.perf_counter() - began)
