"""EM: noise that makes images look learned already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from eclipse.attacks.attack import SurrogateAttack, check_classes, check_radius
from eclipse.attacks.crafting.alternating import Alternation, Rounds, min_min
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.classifiers.fit import Recipe, make_optimizer
from eclipse.classifiers.pgd import PGD
from eclipse.data.imageset import ImageSet
from eclipse.parameters import levels
from eclipse.runs.state import Work

_WHOLE = 0.01  # levels; a float16 that stands for 8 levels may be this much short of them


@dataclass(frozen=True)
class EM(SurrogateAttack):
    """Error-minimizing noise (Huang et al., "Unlearnable Examples", ICLR 2021).

    min over the surrogate and, within the radius, over the noise of CE(f(x + noise), y), in turns. The surrogate is
    hardly trained: ten steps a round, without augmentation.

    Not taken over from the authors' code: it drops all negative noise when it writes images (``positive_only`` does,
    for comparison) and truncates where we round; it runs until the target accuracy is met, which may be never, where
    we stop after ``max_rounds``; it feeds the images in the order of the data set, where we shuffle, since the rows of
    a folder come class by class; and its loader for ImageNet finds the noise of an image by its class and crops
    the image before.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step: of the noise's descent along the sign of the gradient.
        steps: steps an image and round.
        class_wise: one noise for each class, made from a share of the images.
        class_steps: steps an image and round for class-wise noise.
        share: of the images of each class that class-wise noise is made from.
        train_steps: training steps of the surrogate a round; the authors take 20 for CIFAR-100.
        batch: images a training step.
        target: accuracy of the surrogate on the poisoned images at which to stop.
        max_rounds: rounds at most; the authors' notebook took 10.
        arch: the surrogate, a name in ``classifiers.CLASSIFIERS``.
        positive_only: write the images as the authors' code does: without the negative noise, and truncated.
    """

    title: ClassVar[str] = "error-minimizing noise"
    family: ClassVar[str] = "error-minimizing"
    norm: ClassVar[str] = "Linf"
    # As in APBench, which needs a quarter of the steps.
    small: ClassVar[Mapping[str, Any]] = {
        "arch": "small",
        "step": 1.6 / 255,
        "steps": 5,
        "batch": 128,
        "max_rounds": 15,
    }
    radius: float = levels(8)
    step: float = levels(0.8)
    steps: int = 20
    class_wise: bool = False
    class_steps: int = 1
    share: float = 0.2
    train_steps: int = 10
    batch: int = 512
    target: float = 0.99
    max_rounds: int = 20
    arch: str = "resnet18"
    positive_only: bool = False

    def __post_init__(self) -> None:
        check_radius("EM", self.radius)
        self._pgd()
        self._rounds()

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Craft the noise and add it: about 10 rounds of ``steps`` passes for each image."""
        check_classes("EM", clean)
        network = self.surrogate(clean, work)
        rounds = self._rounds()
        noise = Alternation(
            network, make_optimizer(network, rounds.recipe), clean, rounds, min_min(network, self._pgd()), work
        ).craft()
        if self.positive_only:
            return add_noise(clean, np.floor(noise.clip(0).astype(np.float32) * 255 + _WHOLE) / 255)
        return add_noise(clean, noise)

    def passes(self) -> float:
        """Passes for each image in ``max_rounds``: noise, accuracy, and a training of up to one visit a round."""
        noise = self.share * (self.class_steps + 1 / 3) if self.class_wise else self.steps + 1 / 3
        return self.max_rounds * (noise + 1)

    def _pgd(self) -> PGD:
        return PGD(self.radius, self.step, self.class_steps if self.class_wise else self.steps)

    def _rounds(self) -> Rounds:
        recipe = Recipe(epochs=self.max_rounds, batch=self.batch, lr=0.1, weight_decay=5e-4, clip=5.0)
        return Rounds(recipe, self.train_steps, self.target, self.class_wise, self.share)
