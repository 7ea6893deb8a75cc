"""PIL: perturbation-induced linearization."""

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eclipse.attacks.attack import Attack, check_classes, check_radius
from eclipse.attacks.crafting.perturbation import add_noise
from eclipse.attacks.crafting.surrogate import craft_rows, train_surrogate
from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import Recipe
from eclipse.classifiers.pgd import PGD, pgd
from eclipse.compute.device import seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import as_tensor, to_unit
from eclipse.errors import EclipseError
from eclipse.parameters import levels
from eclipse.runs.state import Work


class LinearNet(Classifier):
    """Two matrices without biases: a linear classifier of images (B, C, H, W) of one size."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, num_classes, bias=False)
        self.head = nn.Linear(num_classes, num_classes, bias=False)

    def embed(self, x: Tensor) -> Tensor:
        """Return what the first matrix makes of the values of each image, (B, num_classes)."""
        return cast(Tensor, self.first(x.flatten(1)))


@dataclass(frozen=True)
class PIL(Attack):
    """Perturbation-induced linearization (Liu, Chen and Zhang, ICLR 2026, arXiv 2601.19967).

    A linear classifier f is trained on clean images. The noise eta of an image descends on
    balance * CE(f(eta), y) + (1 - balance) * KL(uniform || softmax(f(x - eta))): f reads the class off the noise
    and nothing off the image x' = x - eta. Networks that are trained on x' become linear. The recipe takes a minute
    of one processor core for 10,000 images of 3x32x32, so the small scale is the same.

    Left out of the authors' code on purpose: the surrogate sees the images in the order of the file, the same in
    every epoch; images are truncated to whole levels when a victim reads them. And where theirs clips x - eta to
    [0, 1] at the end, the shared loop does so at every step, so that eta is what the image really takes.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        step: length of a step, likewise.
        steps: of the noise.
        epochs: of the surrogate, which learns at ``lr``, falling along half a cosine, in batches of ``batch``.
        balance: weight of reading the class off the noise.
    """

    title: ClassVar[str] = "perturbation-induced linearization"
    family: ClassVar[str] = "error-minimizing"
    norm: ClassVar[str] = "Linf"
    radius: float = levels(8)
    step: float = levels(0.8)
    steps: int = 30
    epochs: int = 30
    lr: float = 0.003
    batch: int = 512
    balance: float = 0.9

    def __post_init__(self) -> None:
        check_radius("PIL", self.radius)
        self._noise()
        if self.epochs < 1:
            raise EclipseError(f"PIL surrogate of {self.epochs} epochs; expected at least 1")
        if not 0 < self.balance <= 1:
            raise EclipseError(f"PIL balance {self.balance:g}; expected more than 0 and at most 1, such as 0.9")

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Train the linear surrogate, then optimize the noise of every image against it."""
        check_classes("PIL", clean)
        labels = torch.from_numpy(clean.require_labels("PIL").copy())
        recipe = Recipe(epochs=self.epochs, batch=self.batch, lr=self.lr, schedule="cosine", pad=0, flip=False)
        (network,) = train_surrogate(self.surrogate(clean, work), clean, recipe, work)

        def craft(rows: slice) -> Tensor:
            x = to_unit(as_tensor(clean.images[rows]).to(work.device))
            y = labels[rows].to(work.device)

            def loss(poisoned: Tensor) -> Tensor:
                shortcut = F.cross_entropy(network(x - poisoned), y, reduction="none")
                blindness = -F.log_softmax(network(poisoned), dim=1).mean(dim=1)  # the KL term but for a constant
                return self.balance * shortcut + (1 - self.balance) * blindness

            return pgd(x, loss, self._noise())

        return add_noise(clean, craft_rows(clean, work, craft))

    def surrogate(self, clean: ImageSet, work: Work) -> LinearNet:
        """The linear classifier before its training."""
        with seeded(work.seed, "surrogate linear"):
            return LinearNet(math.prod(clean.images.shape[1:]), clean.num_classes).to(work.device)

    def passes(self) -> float:
        """Each step of the noise looks at the noise and at the image."""
        return self.epochs + 2 * self.steps

    def _noise(self) -> PGD:
        return PGD(self.radius, self.step, self.steps, start="uniform")
