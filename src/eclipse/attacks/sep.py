"""SEP: self-ensemble protection."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from eclipse.attacks.attack import SurrogateAttack, check_classes, check_radius
from eclipse.attacks.crafting.objectives import centroids, craft_pgd, feature_distance, present_classes
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.surrogate import train_surrogate
from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import RECIPES, Recipe, unit_rows
from eclipse.classifiers.pgd import PGD, Loss, cross_entropy, gradient, project
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError, unknown
from eclipse.parameters import levels
from eclipse.runs.state import Work

VARIANTS = {"sep": 30, "fa": 30, "fa-vr": 15}
"""How many checkpoints each variant takes in the paper."""

_RECIPE = Recipe(epochs=120, batch=128, lr=0.1, weight_decay=5e-4, milestones=(75 / 120, 90 / 120), warmup=1 / 120)


@dataclass(frozen=True)
class SEP(SurrogateAttack):
    """Self-ensemble protection (Chen et al., "Training Checkpoints Are Good Data Protectors", ICLR 2023).

    One surrogate is trained on clean images and kept at checkpoints i = 1..n, spaced equally; then
    delta <- project(delta - step * sign(mean_i grad L_i(x + delta))), with a target half the classes further on:

    * ``sep``: L_i is the cross-entropy of checkpoint i to the target.
    * ``fa`` (feature alignment): the squared distance of the embedding to the target class's mean embedding.
    * ``fa-vr`` (with reduced variance): the steps follow the sum of corrected gradients that ``inner`` steps, each on
      one random checkpoint, collect.

    Left out of the authors' code on purpose: checkpoints are kept only when the test accuracy improves, so that they
    are not equally spaced; in ``fa-vr``, every checkpoint is compared with the mean embeddings of the last one; pixels
    are truncated. Different: the learning rate grows from 0 in the first epoch instead of from 0.001.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step: length of a step, on the [0, 1] scale.
        steps: number of steps.
        variant: a name in ``VARIANTS``.
        checkpoints: how many; None for those of the paper.
        inner: inner steps of ``fa-vr``.
        arch: of the surrogate.
        recipe: of its training.
    """

    title: ClassVar[str] = "towards a far class, on many checkpoints"
    family: ClassVar[str] = "error-maximizing"
    norm: ClassVar[str] = "Linf"
    small: ClassVar[Mapping[str, Any]] = {
        "step": 2 / 255,
        "steps": 14,
        "checkpoints": 5,
        "inner": 5,
        "arch": "small",
        "recipe": replace(RECIPES["fast"], epochs=30),
    }
    radius: float = levels(8)
    step: float = levels(1)
    steps: int = 30
    variant: str = "sep"
    checkpoints: int | None = None
    inner: int = 15
    arch: str = "resnet18"
    recipe: Recipe = _RECIPE

    def __post_init__(self) -> None:
        check_radius("SEP", self.radius)
        self._how()
        if self.variant not in VARIANTS:
            raise unknown("variant of SEP", self.variant, VARIANTS)
        if not 1 <= self._count() <= self.recipe.epochs:
            raise EclipseError(
                f"{self._count()} SEP checkpoints in {self.recipe.epochs} epochs; expected 1 to {self.recipe.epochs}"
            )
        if self.inner < 1:
            raise EclipseError(f"{self.inner} inner steps of SEP; expected at least 1")

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the surrogate and perturb every image towards the class half of those that the set has further on."""
        check_classes("SEP", clean)
        networks = train_surrogate(self.surrogate(clean, work), clean, self.recipe, work, keep=self.kept_epochs())
        losses = [_towards_far(f, clean, work.device, features=self.variant != "sep") for f in networks]

        def objective(rows: slice) -> Loss:
            here, x = [loss(rows) for loss in losses], unit_rows(clean, rows, work.device)
            if self.variant == "fa-vr":
                return _with_gradient(lambda at: self._reduced(at, x, here))
            return _with_gradient(lambda at: torch.stack([gradient(at, loss) for loss in here]).mean(0))

        return add_noise(clean, craft_pgd(clean, work, objective, self._how()))

    def passes(self) -> float:
        """Those of its training and of all checkpoints in all steps."""
        inner = self.inner if self.variant == "fa-vr" else 0
        return self.recipe.epochs + self.steps * (self._count() + inner)

    def _reduced(self, at: Tensor, x: Tensor, losses: Sequence[Loss]) -> Tensor:
        """The gradient of ``fa-vr``: inner steps from ``at`` within the ball around x."""
        gradients = [gradient(at, loss) for loss in losses]
        mean, total = torch.stack(gradients).mean(0), torch.zeros_like(at)
        for i in torch.randint(len(losses), (self.inner,)).tolist():
            total = total + gradient(at, losses[i]) - (gradients[i] - mean)
            at = x + project(at - x - self.step * total.sign(), x, self.norm, self.radius)
        return total

    def kept_epochs(self) -> tuple[int, ...]:
        """After which the checkpoints are taken."""
        count = self._count()
        return tuple(round((i + 1) * self.recipe.epochs / count) for i in range(count))

    def _count(self) -> int:
        return VARIANTS[self.variant] if self.checkpoints is None else self.checkpoints

    def _how(self) -> PGD:
        return PGD(self.radius, self.step, self.steps)


def _towards_far(network: Classifier, clean: ImageSet, device: str, features: bool) -> Callable[[slice], Loss]:
    """From a slice of the rows to their loss on one checkpoint."""
    classes, own = present_classes(clean, device)
    goal = (own + len(classes) // 2) % len(classes)
    if not features:
        return lambda rows: cross_entropy(network, classes[goal[rows]])
    means = centroids(network, clean, device)
    return lambda rows: feature_distance(network, means[goal[rows]])


def _with_gradient(field: Callable[[Tensor], Tensor]) -> Loss:
    """A loss whose gradient at x is ``field(x)``.

    For gradients that are gathered from one network after the other: one graph through all checkpoints would hold
    the activations of all of them at once.
    """
    return lambda x: (x * field(x.detach())).flatten(1).sum(1)
