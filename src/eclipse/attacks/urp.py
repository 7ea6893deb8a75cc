"""URP: one random perturbation for each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.attacks.attack import Attack, check_radius
from eclipse.attacks.crafting.perturbation import perturb
from eclipse.compute.randomness import stream
from eclipse.data.imageset import ImageSet
from eclipse.parameters import levels
from eclipse.runs.state import Work


@dataclass(frozen=True)
class URP(Attack):
    """Class-wise universal random perturbation (Tao et al., NeurIPS 2021, "P5"; the random baseline of EM).

    x' = clip(x + delta_y), white spectrum. The norm is kept after rounding.

    Attributes:
        radius: Linf, on the [0, 1] scale.
        gaussian: draw N(0, radius^2) clipped at the radius, as the ECLIPSE paper words it, in place of the
            uniform(-radius, radius) of the codes that it cites.
    """

    title: ClassVar[str] = "class-wise random noise"
    family: ClassVar[str] = "random"
    norm: ClassVar[str] = "Linf"
    radius: float = levels(8)
    gaussian: bool = False

    def __post_init__(self) -> None:
        check_radius("URP", self.radius)

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Add to every image the noise of its class, made from (seed, class) alone; needs no device."""
        shape = clean.images.shape[1:]

        def perturbation(_: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.float64]:
            classes, rows = np.unique(labels, return_inverse=True)
            return np.stack([self._noise(work.seed, label, shape) for label in classes.tolist()])[rows]

        return perturb(clean, perturbation, "URP")

    def _noise(self, seed: int, label: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
        rng = stream(seed, str(label), 0, "urp class")
        if self.gaussian:
            return np.clip(rng.normal(0, self.radius, shape), -self.radius, self.radius)
        return rng.uniform(-self.radius, self.radius, shape)
