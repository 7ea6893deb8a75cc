"""REM: error-minimizing noise that lasts under adversarial training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from eclipse.attacks.attack import SurrogateAttack, check_classes, check_radius
from eclipse.attacks.crafting.alternating import Alternation, Moves, Rounds, poisoned
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.transforms import crop_flip
from eclipse.classifiers.fit import Recipe, make_optimizer
from eclipse.classifiers.pgd import PGD, cross_entropy, pgd
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.parameters import levels
from eclipse.runs.state import Work


@dataclass(frozen=True)
class REM(SurrogateAttack):
    """Robust error-minimizing noise (Fu et al., "Robust Unlearnable Examples", ICLR 2022).

    min over the surrogate, min over the noise within the radius, max over an adversary within its own, of
    CE(f(t(x + noise) + adversary), y), the noise averaged over crops and flips t. The gradient reaches the noise as if
    the adversary were constant. The noise of a batch is found anew, from a random start, whenever the surrogate is
    trained on it, and that of all images once more at the end.

    Not taken over from the authors' code: at the end it leaves out the last images that fill no batch (80 of 50,000),
    which keep the noise of an earlier surrogate. (APBench's attack of this name is another one, without crops,
    flips and adversarial training.)

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step: of the noise's descent along the sign of the gradient.
        steps: steps each time that the noise of an image is found.
        draws: crops and flips that a gradient is averaged over.
        pad: pixels that a crop may move the image.
        adversary_radius: Linf, of the adversary against which the noise is made.
        adversary_step: of its ascent, from a random start.
        adversary_steps: steps each time.
        visits: how often the surrogate is trained on each image; 12.8 are 5,000 steps of 128 of 50,000 images.
        batch: images a training step.
        arch: the surrogate, a name in ``classifiers.CLASSIFIERS``.
    """

    title: ClassVar[str] = "error-minimizing noise against adversarial training"
    family: ClassVar[str] = "error-minimizing"
    norm: ClassVar[str] = "Linf"
    # Fewer and longer steps of the noise, which go as far: twice the radius. One long step of the adversary, as in fast
    # adversarial training (Wong et al. 2020), in favor of more training of the surrogate, without which REM is weak.
    small: ClassVar[Mapping[str, Any]] = {
        "arch": "small",
        "step": 16 / 3 / 255,
        "steps": 3,
        "draws": 1,
        "adversary_step": 5 / 255,
        "adversary_steps": 1,
        "visits": 9.0,
    }
    radius: float = levels(8)
    step: float = levels(1.6)
    steps: int = 10
    draws: int = 5
    pad: int = 4
    adversary_radius: float = levels(4)
    adversary_step: float = levels(0.8)
    adversary_steps: int = 10
    visits: float = 12.8
    batch: int = 128
    arch: str = "resnet18"

    def __post_init__(self) -> None:
        check_radius("REM", self.radius)
        check_radius("REM adversary", self.adversary_radius)
        if not self.visits > 0:
            raise EclipseError(f"visits {self.visits:g}; expected more than 0, such as the default 12.8")
        if self.pad < 0:
            raise EclipseError(f"pad {self.pad}; expected 0 or more pixels")
        self._noise()
        self._adversary()
        self._rounds(1)

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the surrogate, craft the noise against it and add it: about 7,700 passes an image as published."""
        check_classes("REM", clean)
        network = self.surrogate(clean, work)
        rounds = self._rounds(len(clean))
        noise = Alternation(
            network, make_optimizer(network, rounds.recipe), clean, rounds, self.moves(network), work
        ).craft()
        return add_noise(clean, noise)

    def passes(self) -> float:
        """Passes for each image: noise and training at each visit, the noise at the end, and its accuracy."""
        noise = self.steps * self.draws * (self.adversary_steps + 1)
        return self.visits * (noise + self.adversary_steps + 1) + noise + 1 / 3

    def moves(self, network: nn.Module) -> Moves:
        """How noise and surrogate change against each other."""
        seen = crop_flip(self.pad)

        def attacked(u: Tensor, y: Tensor) -> Tensor:
            return u + pgd(u.detach(), cross_entropy(network, y), self._adversary())

        def renew(x: Tensor, y: Tensor, _: Tensor) -> Tensor:
            return pgd(x, lambda u: cross_entropy(network, y)(attacked(u, y)), self._noise(), transform=seen)

        def lesson(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
            return attacked(seen(poisoned(x, renew(x, y, noise))), y)

        return Moves(renew, lesson, seen)

    def _noise(self) -> PGD:
        return PGD(self.radius, self.step, self.steps, start="uniform", draws=self.draws)

    def _adversary(self) -> PGD:
        return PGD(self.adversary_radius, self.adversary_step, self.adversary_steps, start="uniform", ascend=True)

    def _rounds(self, images: int) -> Rounds:
        """One round: all training, and one pass over the noise."""
        recipe = Recipe(epochs=1, batch=self.batch, lr=0.1, weight_decay=5e-4, milestones=(0.4, 0.8))
        return Rounds(recipe, max(1, round(self.visits * images / max(1, min(self.batch, images)))))
