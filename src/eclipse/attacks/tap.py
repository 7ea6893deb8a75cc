"""TAP: targeted adversarial poisoning."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eclipse.attacks.attack import SurrogateAttack, check_classes, check_radius
from eclipse.attacks.crafting.objectives import craft_pgd, present_classes
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.surrogate import row_groups, train_surrogate
from eclipse.attacks.crafting.transforms import flip_shift
from eclipse.classifiers.fit import RECIPES, Recipe, unit_rows
from eclipse.classifiers.pgd import PGD, Loss, Transform, cross_entropy
from eclipse.compute.device import seeded
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.parameters import levels
from eclipse.runs.state import Work

_RECIPE = Recipe(
    epochs=40, batch=128, lr=0.1, weight_decay=5e-4, nesterov=True, pad=0, flip=False,
    milestones=(14 / 40, 24 / 40, 35 / 40),
)  # fmt: skip


@dataclass(frozen=True)
class TAP(SurrogateAttack):
    """Targeted adversarial poisoning (Fowl et al., "Adversarial Examples Make Strong Poisons", NeurIPS 2021).

    A surrogate is trained on clean images; then PGD makes it take each image for the next class:
    min over ||delta|| <= radius of E_t CE(f(t(x + delta)), y + 1 mod classes), t a flip and a shift by a fraction of
    a pixel. Expect a victim below chance, after some epochs: it learns labels that are shifted back.

    The recipe is that of the authors' code, whose milestones are rounded down to 14, 24 and 35 epochs. What comes into
    view in a shift has the mean color of the set, as the normalization there has it. Left out on purpose: the switch
    for the augmentation of poisons, which turns it off when it is asked for. Different: the restart to keep is the one
    of lowest loss after its last step, where theirs is of lowest loss during it.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step_share: length of a step as a share of the radius.
        steps: of each restart.
        restarts: independent craftings of the whole set, of which the one of lowest mean loss is kept.
        arch: of the surrogate.
        recipe: of its training; the augmentation is that of the attack.
    """

    title: ClassVar[str] = "towards the next class"
    family: ClassVar[str] = "error-maximizing"
    norm: ClassVar[str] = "Linf"
    small: ClassVar[Mapping[str, Any]] = {
        "step_share": 0.125,
        "steps": 50,
        "restarts": 1,
        "arch": "small",
        "recipe": replace(RECIPES["fast"], epochs=30, pad=0, flip=False),
    }
    radius: float = levels(8)
    step_share: float = 0.05
    steps: int = 250
    restarts: int = 8
    arch: str = "resnet18"
    recipe: Recipe = _RECIPE

    def __post_init__(self) -> None:
        check_radius("TAP", self.radius)
        self._how()
        if self.restarts < 1:
            raise EclipseError(f"TAP restarts {self.restarts}; expected at least 1")

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the surrogate and perturb every image towards the next class that the set has."""
        check_classes("TAP", clean)
        transform = _augmentation(clean, work.device)
        (network,) = train_surrogate(
            self.surrogate(clean, work), clean, self.recipe, work, augment=lambda x, y: (transform(x), y)
        )
        classes, own = present_classes(clean, work.device)
        targets = classes[(own + 1) % len(classes)]

        def objective(rows: slice) -> Loss:
            return cross_entropy(network, targets[rows])

        def restart(stage: str) -> NDArray[np.float16]:
            return craft_pgd(clean, work, objective, self._how(), transform=transform, stage=stage)

        if self.restarts == 1:
            return add_noise(clean, restart("noise"))
        return min(
            (add_noise(clean, restart(f"restart {i}")) for i in range(1, self.restarts + 1)),
            key=lambda poisoned: _mean_loss(network, poisoned, targets, transform, work),
        )

    def passes(self) -> float:
        """Those of its training and of all restarts."""
        return self.recipe.epochs + self.restarts * self.steps

    def _how(self) -> PGD:
        return PGD(self.radius, self.step_share * self.radius, self.steps, start="normal")


def _augmentation(clean: ImageSet, device: str) -> Transform:
    mean = torch.tensor(clean.images.mean(axis=(0, 2, 3), keepdims=True) / 255, dtype=torch.float32, device=device)
    return flip_shift(fill=mean)


@torch.no_grad()
def _mean_loss(network: nn.Module, poisoned: ImageSet, targets: Tensor, transform: Transform, work: Work) -> float:
    total = 0.0
    with seeded(work.seed, "restarts", device=work.device):  # the same shifts for each restart
        for rows in row_groups(poisoned):
            loss = cross_entropy(network, targets[rows])
            total += float(loss(transform(unit_rows(poisoned, rows, work.device))).double().sum())
    return total / len(poisoned)
