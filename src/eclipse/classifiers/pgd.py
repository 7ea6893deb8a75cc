"""Projected gradient descent on perturbations: the one loop behind attacks with a surrogate and adversarial training.

Perturbations and radii are on the [0, 1] pixel scale. What is wanted is said by a loss: a function from images
(B, C, H, W) to one number for each of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.errors import EclipseError, unknown

_USUAL = {"radius": "8", "step": "a tenth of the radius"}

Loss: TypeAlias = Callable[[Tensor], Tensor]
Transform: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PGD:
    """How a perturbation is optimized.

    Attributes:
        radius: of the ball, on the [0, 1] scale.
        step: length of a step, in the norm of the ball.
        steps: number of steps.
        norm: ``Linf`` (steps along the sign of the gradient) or ``L2`` (along the gradient, normalized).
        start: where to start: a name in ``STARTS``.
        ascend: raise the loss instead of lowering it.
        draws: transformations of the images that a gradient is averaged over (expectation over transformation).
    """

    radius: float
    step: float
    steps: int
    norm: str = "Linf"
    start: str = "zero"
    ascend: bool = False
    draws: int = 1

    def __post_init__(self) -> None:
        for name, length in (("radius", self.radius), ("step", self.step)):
            if not length > 0:
                raise EclipseError(f"{name} of {length * 255:g} levels; expected more than 0, such as {_USUAL[name]}")
        for name, value in (("steps", self.steps), ("draws", self.draws)):
            if value < 1:
                raise EclipseError(f"{name} {value}; expected at least 1")
        if self.norm not in _STEPS:
            raise unknown("norm", self.norm, _STEPS)
        if self.start not in STARTS:
            raise unknown("start", self.start, STARTS)


STARTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "zero": lambda x, radius: torch.zeros_like(x),
    "uniform": lambda x, radius: torch.empty_like(x).uniform_(-radius, radius),
    "normal": lambda x, radius: torch.randn_like(x) * radius,
}
"""Where a perturbation starts, before it is projected into the ball: from the images and the radius."""


def pgd(x: Tensor, loss: Loss, how: PGD, *, transform: Transform | None = None, delta: Tensor | None = None) -> Tensor:
    """Optimize one perturbation for each image so that x + perturbation has a low loss (high with ``how.ascend``).

    Args:
        x: images in [0, 1], (B, C, H, W).
        loss: from images to a loss for each, (B,); its network should be frozen and in evaluation mode. Called with
            ``how.draws`` transformations of the images at each step.
        how: radius, step and so on.
        transform: random and differentiable, drawn anew each time; None for the images as they are.
        delta: where to start instead of ``how.start``.

    Returns:
        The perturbations, shaped like x: inside the ball, and x + perturbation inside [0, 1].
    """
    delta = STARTS[how.start](x, how.radius) if delta is None else delta
    delta = project(delta, x, how.norm, how.radius)
    sign = 1.0 if how.ascend else -1.0
    for _ in range(how.steps):
        direction = sign * gradient(x + delta, loss, how.draws, transform)
        delta = project(delta + how.step * _STEPS[how.norm](direction), x, how.norm, how.radius)
    return delta


def cross_entropy(network: nn.Module, labels: Tensor) -> Loss:
    """The loss of each image to these labels, (B,), or probabilities, (B, classes)."""
    return lambda x: F.cross_entropy(network(x).float(), labels, reduction="none")


def adversary(how: PGD) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Adversarial training: from a batch to the images near it that PGD finds hardest; ``how`` should ascend."""
    return lambda network, x, y: x + pgd(x, cross_entropy(network, y), how)


def gradient(x: Tensor, loss: Loss, draws: int = 1, transform: Transform | None = None) -> Tensor:
    """The gradient of the loss of each image by its pixels, averaged over ``draws`` transformations, like x."""
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        total = torch.stack([loss(x if transform is None else transform(x)).sum() for _ in range(draws)]).mean()
    return torch.autograd.grad(total, x)[0]


def project(delta: Tensor, x: Tensor, norm: str, radius: float) -> Tensor:
    """Bring perturbations into the ball, and x + perturbation into [0, 1]."""
    if norm == "Linf":
        delta = delta.clamp(-radius, radius)
    else:
        delta = delta * (radius / _length(delta).clamp_min(1e-12)).clamp_max(1.0)
    return (x + delta).clamp(0, 1) - x


def scaled_radius(norm: str, radius: float, shape: tuple[int, ...]) -> float:
    """The radius for images of shape (C, H, W): an L2 radius is stated for 3x32x32 and grows with sqrt(C*H*W)."""
    return radius * math.sqrt(math.prod(shape) / (3 * 32 * 32)) if norm == "L2" else radius


def _length(values: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True))


_STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "Linf": torch.sign,
    "L2": lambda values: values / _length(values).clamp_min(1e-12),
}
