"""HYPO: hypocritical perturbations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from eclipse.attacks.attack import SurrogateAttack, check_classes, check_radius
from eclipse.attacks.crafting.objectives import craft_pgd
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.surrogate import train_surrogate
from eclipse.attacks.crafting.transforms import flip_shift
from eclipse.classifiers.fit import RECIPES, Recipe
from eclipse.classifiers.pgd import PGD, Loss, adversary, cross_entropy
from eclipse.data.imageset import ImageSet
from eclipse.parameters import levels
from eclipse.runs.state import Work

_RECIPE = Recipe(epochs=10, batch=128, lr=0.1, weight_decay=5e-4)


@dataclass(frozen=True)
class HYPO(SurrogateAttack):
    """Hypocritical perturbations (Tao et al., "Can Adversarial Training Be Manipulated ...?", NeurIPS 2022).

    A surrogate is trained adversarially for a few epochs; then PGD makes each image easier for it:
    min over ||delta|| <= radius of E_t CE(f(t(x + delta)), y), t a flip and a shift by a fraction of a pixel. It is
    made to spoil the robustness that adversarial training gives, and is a weak poison for standard training.

    Left out of the authors' code on purpose: pixels are truncated; switches that any text turns on; 1,000 images that
    are held out of the surrogate's training.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step_share: length of a step as a share of the radius.
        steps: number of steps.
        surrogate_radius: Linf radius of the adversary that the surrogate is trained against.
        surrogate_step: length of that adversary's steps.
        surrogate_steps: their number.
        arch: of the surrogate.
        recipe: of its training.
    """

    title: ClassVar[str] = "towards the true class, on a robust network"
    family: ClassVar[str] = "error-minimizing"
    norm: ClassVar[str] = "Linf"
    small: ClassVar[Mapping[str, Any]] = {
        "steps": 50,
        "surrogate_step": 1 / 255,
        "surrogate_steps": 3,
        "arch": "small",
        "recipe": replace(RECIPES["fast"], epochs=9),
    }
    radius: float = levels(8)
    step_share: float = 0.1
    steps: int = 100
    surrogate_radius: float = levels(2)
    surrogate_step: float = levels(0.5)
    surrogate_steps: int = 10
    arch: str = "resnet18"
    recipe: Recipe = _RECIPE

    def __post_init__(self) -> None:
        check_radius("HYPO", self.radius)
        self._how()
        self._against()

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the surrogate and perturb every image towards its own class."""
        check_classes("HYPO", clean)
        (network,) = train_surrogate(
            self.surrogate(clean, work), clean, self.recipe, work, adversary=adversary(self._against())
        )
        labels = torch.tensor(clean.require_labels("HYPO"), device=work.device)

        def objective(rows: slice) -> Loss:
            return cross_entropy(network, labels[rows])

        return add_noise(clean, craft_pgd(clean, work, objective, self._how(), transform=flip_shift()))

    def passes(self) -> float:
        """Those of adversarial training and of all steps."""
        return self.recipe.epochs * (1 + self.surrogate_steps) + self.steps

    def _how(self) -> PGD:
        return PGD(self.radius, self.step_share * self.radius, self.steps)

    def _against(self) -> PGD:
        return PGD(self.surrogate_radius, self.surrogate_step, self.surrogate_steps, start="uniform", ascend=True)
