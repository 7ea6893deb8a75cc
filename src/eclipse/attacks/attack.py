"""What an attack is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import nn

from eclipse.attacks.crafting.surrogate import new_surrogate
from eclipse.classifiers.classifier import CLASSIFIERS, Classifier
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

LONGEST = math.sqrt(3 * 32 * 32)  # the L2 norm of the way from black to white at 3x32x32


class Attack(ABC):
    """The base of all attacks: frozen dataclasses of a paper's hyper-parameters, which poison an image set.

    The defaults of the fields are the published recipe. Lengths in pixels are on the [0, 1] scale.

    Attributes:
        title: what it is, in a few words.
        family: how it works: ``random``, ``synthetic``, ``error-minimizing``, ``error-maximizing`` or ``feature``.
        norm: what bounds the change: ``Linf``, ``L2``, ``L0`` (changed pixels) or ``none``.
        radius: the bound; for L2 at 3x32x32 (``perturbation.bound`` gives it at any size), for L0 a count.
        small: the fields that are different at the small scale, for processors without a GPU.
    """

    title: ClassVar[str]
    family: ClassVar[str]
    norm: ClassVar[str]
    radius: float
    small: ClassVar[Mapping[str, Any]] = {}

    def poison(self, clean: ImageSet, *, seed: int = 0, device: str = "cpu") -> ImageSet:
        """Return the poisoned set: the seed decides it, and a surrogate computes on the device."""
        return self.craft(clean, Work(seed, device))

    @abstractmethod
    def craft(self, clean: ImageSet, work: Work) -> ImageSet:
        """Return the same rows with perturbed pixels; labels, ids and order stay.

        Args:
            clean: a labelled set.
            work: its seed decides the poison; its state keeps that of a long crafting.

        Raises:
            EclipseError: the set has no labels, or is not one that this attack can poison.
        """

    def check(self, name: str) -> None:
        """Refuse, under the name that a user gave, fields that no user can mean."""
        if self.norm == "L2" and self.radius > LONGEST:
            raise EclipseError(
                f"{name} radius {self.radius:g}, an L2 norm on the [0, 1] scale at 3x32x32; expected at most "
                f"{LONGEST:.1f}, the way from black to white, such as {type(self).radius:.2g}"
            )

    def surrogate(self, clean: ImageSet, work: Work) -> nn.Module | None:
        """The untrained surrogate for this set, to measure its speed; None where there is none."""
        return None

    def surrogate_code(self) -> dict[str, str]:
        """What tells a surrogate of others from another version of it; empty where there is none, or it is ours."""
        return {}

    def passes(self) -> float:
        """How many forward and backward passes of the surrogate the crafting takes for each image, at most."""
        return 0.0


class SurrogateAttack(Attack):
    """The base of the attacks whose surrogate is a classifier that has a name.

    Attributes:
        arch: a name in ``classifiers.CLASSIFIERS``.
    """

    arch: str

    def surrogate(self, clean: ImageSet, work: Work) -> Classifier:
        """The untrained surrogate."""
        return new_surrogate(self.arch, clean, work)

    def surrogate_code(self) -> dict[str, str]:
        """That of the network."""
        return {f"arch {word}": value for word, value in CLASSIFIERS.code(self.arch).items()}


def check_radius(attack: str, radius: float) -> None:
    """Refuse an Linf radius that cannot be meant."""
    if not 0 < radius <= 1:
        raise EclipseError(
            f"{attack} radius of {radius * 255:g} levels; expected more than 0 and at most 255, such as 8"
        )


def check_classes(attack: str, clean: ImageSet, least: int = 1) -> None:
    """Refuse a set without labels, of one class, or with a class of fewer images than the attack needs.

    Classes without any image are left alone: a slice of a data set may lack some.
    """
    labels, counts = np.unique(clean.require_labels(attack), return_counts=True)
    if len(labels) < 2:
        raise EclipseError(f"{attack} of a set with {len(labels)} class; expected at least 2, with labels that differ")
    label, fewest = int(labels[counts.argmin()]), int(counts.min())
    if fewest < least:
        name = clean.class_names[label] if clean.class_names else label
        raise EclipseError(
            f"class {name} has {fewest} images; {attack} needs at least {least} of each class: add some or leave it out"
        )
