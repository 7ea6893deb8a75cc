"""EFP: entangled features poisoning, also known as EntF."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from eclipse.attacks.attack import SurrogateAttack, check_classes, check_radius
from eclipse.attacks.crafting.objectives import centroids, craft_pgd, feature_distance, present_classes
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.surrogate import train_surrogate
from eclipse.attacks.crafting.transforms import flip_shift
from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import RECIPES, Recipe
from eclipse.classifiers.pgd import PGD, Loss, adversary
from eclipse.data.imageset import ImageSet
from eclipse.errors import unknown
from eclipse.parameters import levels
from eclipse.runs.state import Work

VARIANTS = ("push", "pull")

_RECIPE = Recipe(epochs=100, batch=128, lr=0.1, weight_decay=5e-4, milestones=(0.75, 0.9))


@dataclass(frozen=True)
class EFP(SurrogateAttack):
    """Entangled features poisoning (Wen et al., "Is Adversarial Training Really a Silver Bullet ...?", ICLR 2023).

    A reference network is trained adversarially on clean images, and mu_k is the mean embedding of class k. In the
    ball, and through a flip and a shift by a fraction of a pixel, PGD either

    * ``push``: raises the distance of an image's embedding to that of its own class, or
    * ``pull``: lowers the distance to the nearest of the other classes, which is looked for again in each step.

    It is made against victims that train adversarially; it hardly lowers the accuracy of others.

    Left out of the authors' code on purpose: the own class is told from the others by a distance of 1, which is wrong
    where all other distances are larger; ten classes are taken for granted in two places.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step_share: length of a step as a share of the radius.
        steps: number of steps.
        variant: a name in ``VARIANTS``.
        reference_radius: Linf radius of the adversary that the reference is trained against.
        reference_step: length of that adversary's steps.
        reference_steps: their number.
        arch: of the reference.
        recipe: of its training.
    """

    title: ClassVar[str] = "away from the features of the class"
    family: ClassVar[str] = "feature"
    norm: ClassVar[str] = "Linf"
    small: ClassVar[Mapping[str, Any]] = {
        "step_share": 0.1,
        "steps": 60,
        "reference_steps": 3,
        "arch": "small",
        "recipe": replace(RECIPES["fast"], epochs=9),
    }
    radius: float = levels(8)
    step_share: float = 0.05
    steps: int = 300
    variant: str = "push"
    reference_radius: float = levels(4)
    reference_step: float = levels(2)
    reference_steps: int = 10
    arch: str = "resnet18"
    recipe: Recipe = _RECIPE

    def __post_init__(self) -> None:
        check_radius("EFP", self.radius)
        self._how()
        self._against()
        if self.variant not in VARIANTS:
            raise unknown("variant of EFP", self.variant, VARIANTS)

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the reference and move the features of every image."""
        check_classes("EFP", clean)
        (network,) = train_surrogate(
            self.surrogate(clean, work), clean, self.recipe, work, adversary=adversary(self._against())
        )
        means, own = centroids(network, clean, work.device), present_classes(clean, work.device)[1]

        def objective(rows: slice) -> Loss:
            if self.variant == "push":
                return feature_distance(network, means[own[rows]])
            return distance_to_nearest_other(network, means, own[rows])

        noise = craft_pgd(clean, work, objective, self._how(), transform=flip_shift())
        return add_noise(clean, noise)

    def passes(self) -> float:
        """Those of adversarial training and of all steps."""
        return self.recipe.epochs * (1 + self.reference_steps) + self.steps

    def _how(self) -> PGD:
        step = self.step_share * self.radius
        return PGD(self.radius, step, self.steps, start="normal", ascend=self.variant == "push")

    def _against(self) -> PGD:
        return PGD(self.reference_radius, self.reference_step, self.reference_steps, start="uniform", ascend=True)


def distance_to_nearest_other(network: Classifier, means: Tensor, own: Tensor) -> Loss:
    """The mean squared distance of each embedding to the nearest mean but that of its own class."""

    def loss(x: Tensor) -> Tensor:
        embedding = network.embed(x)
        distances = torch.cdist(embedding.detach(), means)
        nearest = distances.scatter(1, own[:, None], torch.inf).argmin(1)
        return (embedding - means[nearest]).square().mean(1)

    return loss
