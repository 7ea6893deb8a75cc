"""An attack: every class has stripes of its own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eclipse.attacks import Attack, ImageSet, Work, check_classes, check_radius, levels, perturb


@dataclass(frozen=True)
class Stripes(Attack):
    """Bright and dark stripes, as many as the number of the class tells."""

    title: ClassVar[str] = "class-wise stripes"
    family: ClassVar[str] = "synthetic"
    norm: ClassVar[str] = "Linf"
    radius: float = levels(8)

    def __post_init__(self) -> None:
        check_radius("Stripes", self.radius)

    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        check_classes("Stripes", clean)
        width = clean.images.shape[3]

        def stripes(ids, labels):  # float, (n, C or 1, H or 1, W) on the [0, 1] scale
            waves = np.sin(np.pi * np.outer(labels + 1, np.arange(width) + 0.5) / width)
            return self.radius * np.sign(waves)[:, None, None, :]

        return perturb(clean, stripes, "Stripes")
