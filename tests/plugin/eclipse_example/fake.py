"""An attack with a surrogate that costs next to nothing: what all of them have, and no more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from eclipse.attacks import (
    PGD,
    ImageSet,
    Recipe,
    SurrogateAttack,
    Work,
    add_noise,
    check_classes,
    check_radius,
    craft_rows,
    levels,
    pgd,
    to_unit,
    train_surrogate,
)


@dataclass(frozen=True)
class Fake(SurrogateAttack):
    """A fake of the tests: away from the own class, from a random start.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step: of the noise, likewise.
        epochs: of the surrogate.
        recipe: of its training.
    """

    title: ClassVar[str] = "a fake"
    family: ClassVar[str] = "error-maximizing"
    norm: ClassVar[str] = "Linf"
    small: ClassVar[Mapping[str, Any]] = {"recipe": Recipe(epochs=4, batch=16, lr=0.05, pad=0)}
    radius: float = levels(8)
    step: float = levels(2.5)
    steps: int = 3
    draws: int | None = None
    arch: str = "small"
    recipe: Recipe = Recipe(epochs=3, batch=16, lr=0.05, pad=0)  # noqa: RUF009, it is frozen

    def __post_init__(self) -> None:
        check_radius("Fake", self.radius)

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the surrogate, then perturb."""
        check_classes("Fake", clean, least=3)
        (network,) = train_surrogate(self.surrogate(clean, work), clean, self.recipe, work)
        labels = torch.tensor(clean.require_labels("Fake"), device=work.device)
        how = PGD(self.radius, self.step, self.steps, start="uniform", ascend=True)

        def craft(rows: slice) -> Tensor:
            x = to_unit(torch.from_numpy(clean.images[rows].copy()).to(work.device))
            return pgd(x, lambda view: F.cross_entropy(network(view), labels[rows], reduction="none"), how)

        return add_noise(clean, craft_rows(clean, work, craft))

    def passes(self) -> float:
        """Those of training and noise."""
        return self.recipe.epochs + self.steps
