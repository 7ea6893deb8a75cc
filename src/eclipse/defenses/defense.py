"""What a defense is."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from eclipse.classifiers.classifier import Classifier
from eclipse.classifiers.fit import Recipe, make_optimizer
from eclipse.data.imageset import ImageSet
from eclipse.errors import EclipseError, check_installed
from eclipse.parameters import all_fields
from eclipse.runs.state import Work


class Defense:
    """The base of all defenses: frozen dataclasses of a paper's hyper-parameters, which join the training of a victim.

    The defaults of the fields are the published recipe. Each method is a place where a defense can act, and does
    nothing by default: before the training (``prepare``), on its network (``adapt``), on every batch (``augment``,
    then ``adversary``), on its steps (``optimizer``). Nothing is done to test images. The base itself is no defense at
    all, to compare with.

    Attributes:
        title: what it is, in a few words.
        acts: where: ``data``, ``batches``, ``training``, or several of them.
        trusted: what it may need that is clean: ``nothing``, ``images`` (a few, without labels), ``labelled images`` or
            ``a clean set`` (the whole, without labels).
        ignores_data: the suspicious images play no part, so the result is the same for every poison.
        small: the fields that are different at the small scale, for processors without a GPU.
    """

    title: ClassVar[str] = "no defense"
    acts: ClassVar[str] = "nowhere"
    trusted: ClassVar[str] = "nothing"
    ignores_data: ClassVar[bool] = False
    small: ClassVar[Mapping[str, Any]] = {}

    def check(self, name: str) -> None:
        """Refuse a defense that cannot be used here: an optional package of its is missing."""
        if self.package is not None:
            check_installed(*self.package)

    def needs(self) -> str:
        """What of ``trusted`` it needs with its present fields."""
        return self.trusted

    @property
    def package(self) -> tuple[str, str] | None:
        """An optional package that it needs with its present fields, and the extra that installs it."""
        return None

    def prepare(self, data: ImageSet, trusted: ImageSet | None, work: Work) -> ImageSet:
        """Return the set to train on.

        Args:
            data: the suspicious images.
            trusted: what the defense needs that is clean; None for one that needs nothing.
            work: its seed decides the result, with the images; its state keeps that of long work.

        Raises:
            EclipseError: the images, or the trusted ones, are not what the defense can work with.
        """
        return data

    def settings(self) -> dict[str, Any]:
        """Every number that it works with, for records and names: its fields, those of a preset spelled out."""
        return all_fields(self)

    def preparation(self) -> Mapping[str, Any] | None:
        """What of the defense decides the result of ``prepare``; None where that returns the data as they are."""
        if type(self).prepare is Defense.prepare:
            return None
        return {"defense": type(self).__name__, **self.settings()}

    def adapt(self, network: Classifier) -> nn.Module:
        """Return the network to train; it may be the given one, changed."""
        return network

    def optimizer(self, network: nn.Module, recipe: Recipe) -> Optimizer:
        """Return the optimizer of a network from ``adapt``."""
        return make_optimizer(network, recipe)

    def augment(self, x: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Change a batch after crop and flip.

        Args:
            x: images on [0, 1], (B, C, H, W).
            y: labels, int64, (B,).
            num_classes: how many there are.

        Returns:
            Images, and labels as they are or as probabilities, (B, num_classes).
        """
        return x, y

    def adversary(self, network: nn.Module, x: Tensor, y: Tensor, progress: float) -> Tensor:
        """Change the images of a batch by what the network, in evaluation mode, makes of them.

        Args:
            network: in its present state; gradients that reach its weights are dropped afterwards.
            x: images from ``augment``.
            y: labels from ``augment``.
            progress: the share of all epochs that is done.
        """
        return x

    def cost(self) -> float:
        """How many times the work of the same training without a defense it takes, roughly."""
        return 1.0


def need(trusted: ImageSet | None, defense: str, what: str) -> ImageSet:
    """The trusted images, or an error that says what the defense needs."""
    if trusted is None:
        raise EclipseError(f"the defense {defense} needs {what} that you trust, and none are given: name them")
    return trusted
