"""Mixup: every image blended with another one of its batch, and so their labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError


@dataclass(frozen=True)
class Mixup(Defense):
    """Blends of two images (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018).

    x <- s x + (1 - s) x', and the same for the labels, where x' is another row of a random permutation of the batch
    and s ~ Beta(alpha, alpha) is one number for the whole batch. This is the flavor of its authors. The code of EM and
    ISS draws the partner from the whole set instead and blends each image with up to two, each with probability 1/2;
    that of APBench draws one s for each image.

    Attributes:
        alpha: of the Beta distribution; 1 makes s uniform.
    """

    title: ClassVar[str] = "blends of two images"
    acts: ClassVar[str] = "batches"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_concentration("Mixup alpha", self.alpha)

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Blend each image with its partner."""
        share, partners = draw_share(self.alpha), torch.randperm(len(x), device=x.device)
        return torch.lerp(x[partners], x, share), blend_labels(y, partners, share, num_classes)


def check_concentration(name: str, value: float) -> None:
    """Refuse a parameter that no Beta distribution has."""
    if not 0 < value < float("inf"):
        raise EclipseError(f"{name} {value:g}; expected more than 0, such as the default 1")


def draw_share(concentration: float) -> float:
    """The share of the image itself in a blend, from a symmetric Beta distribution, by torch's global generator."""
    at = torch.tensor(float(concentration))
    return float(Beta(at, at).sample())


def blend_labels(y: Tensor, partners: Tensor, share: float, num_classes: int) -> Tensor:
    """Labels as probabilities: ``share`` for the class of a row, the rest for that of its partner.

    Args:
        y: int64, (B,).
        partners: the row that each row is blended with, int64, (B,).
        share: in [0, 1].
        num_classes: how many there are.

    Returns:
        float32, (B, num_classes).
    """
    own = F.one_hot(y, num_classes).to(torch.float32)
    return torch.lerp(own[partners], own, share)
