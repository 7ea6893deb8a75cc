"""Train a victim under a defense and measure it on clean images: what ``eclipse train`` and each cell of a grid do."""

import math
import time
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from eclipse.classifiers.classifier import make_classifier
from eclipse.classifiers.fit import Recipe, accuracy, fit
from eclipse.compute.device import channels_last, enough_memory, seeded
from eclipse.data.imageset import ImageSet
from eclipse.data.store import comparable_names
from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError
from eclipse.runs.state import Work, pack, unpack


@dataclass(frozen=True)
class Trained:
    """A victim at the end of its training.

    Attributes:
        network: in evaluation mode.
        epochs: of each epoch its number, loss, train_accuracy, accuracy on the test images and images_per_s.
        seconds: that training and tests took, those before an interruption included.
    """

    network: nn.Module
    epochs: tuple[dict[str, float], ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """On the test images after the last epoch, in [0, 1]."""
        return self.epochs[-1]["accuracy"]

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def train_victim(
    data: ImageSet,
    test: ImageSet,
    defense: Defense,
    arch: str,
    recipe: Recipe,
    work: Work,
    *,
    compiled: bool = False,
) -> Trained:
    """Train a victim on a prepared set and measure it after every epoch.

    Args:
        data: from the defense's ``prepare``.
        test: clean images; nothing is done to them.
        defense: acts on network, batches and steps.
        arch: a name in ``classifiers.CLASSIFIERS``.
        recipe: of the training.
        work: its seed decides weights, order and all that is drawn; its state keeps that after every epoch.
        compiled: see ``fit``.

    Raises:
        EclipseError: sets that do not fit each other, or a network that does not fit the images or the device.
    """
    seed, device, state = work.seed, work.device, work.state
    classes = check_sets(data, test)
    epochs: list[dict[str, float]] = []
    before = 0.0

    def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return defense.augment(x, y, classes)

    def adversary(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return defense.adversary(network, x, y, len(epochs) / recipe.epochs)

    with enough_memory(device, f"to train {arch} with batches of {recipe.batch}"):
        network = new_victim(arch, data, classes, defense, seed, device)
        optimizer = defense.optimizer(network, recipe)
        if found := state.load("victim"):
            unpack(found[0], network, optimizer)
            epochs, before = found[1]["epochs"], found[1]["seconds"]
        began, done = time.monotonic(), len(epochs)
        hooks: dict[str, Any] = {"augment": augment, "adversary": adversary, "optimizer": optimizer, "done": done}
        for event in fit(network, data, recipe, seed=seed, device=device, compiled=compiled, **hooks):
            if not math.isfinite(event.loss):
                raise EclipseError(
                    f"the loss of {arch} is {event.loss} after epoch {event.epoch}: its training diverged; expected a "
                    "number: choose other settings of the defense, or another recipe"
                )
            epochs.append({**asdict(event), "accuracy": accuracy(network, test, device=device)})
            facts = {"epochs": epochs, "seconds": before + time.monotonic() - began}
            state.save("victim", pack(network, optimizer), facts)
            state.tell("victim", event.epoch, recipe.epochs, loss=event.loss, accuracy=epochs[-1]["accuracy"])
    return Trained(network.eval(), tuple(epochs), before + time.monotonic() - began)


def new_victim(arch: str, data: ImageSet, classes: int, defense: Defense, seed: int, device: str) -> nn.Module:
    """The untrained network of a defense for the images of a set; the seed decides its weights."""
    channels, *sides = data.images.shape[1:]
    with seeded(seed, f"victim {arch}"):
        network = defense.adapt(make_classifier(arch, classes, channels, min(sides)))
    return channels_last(network.to(device))


def check_sets(data: ImageSet, test: ImageSet) -> int:
    """Refuse test images that a network for the training images cannot be measured on; return the number of classes.

    Where no class has a name, the largest label of the training images tells how many classes there are.
    """
    labels = data.require_labels("training a victim")
    if test.images.shape[1:] != data.images.shape[1:]:
        sizes = ["x".join(map(str, images.shape[1:])) for images in (test.images, data.images)]
        raise EclipseError(
            f"test images of {sizes[0]} and training images of {sizes[1]} (channels, height, width); expected one size"
        )
    known = [comparable_names(images.class_names or ()) for images in (data, test)]
    if all(known) and known[0] != known[1]:
        names = next((a, b) for a, b in zip_longest(*known) if a != b)
        raise EclipseError(
            f"the training set has the class {names[0]!r} where the test set has {names[1]!r}; expected the same "
            "classes in the same order"
        )
    if len(set(labels.tolist())) < 2:
        raise EclipseError("the training set has a single class; expected at least 2 to train a victim")
    classes, largest = data.num_classes, int(test.require_labels("measuring accuracy").max(initial=-1))
    if largest >= classes:
        raise EclipseError(f"test label {largest}; expected less than {classes}, the number of training classes")
    return classes
