"""The alternating driver of EM, REM and ADP: the surrogate is trained on poisoned images, then the noise is renewed.

A round is a number of training steps of the surrogate on x + noise, one pass that renews the noise of all images,
and a look at the surrogate's accuracy on what came out. Rounds end at a target accuracy or when there were enough.

The surrogate is saved every ``SAVE`` training steps and at the end of those of a round, the noise group by group, each
with the round that it belongs to. So a crafting that was killed in the middle of a round goes on there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eclipse.attacks.crafting.surrogate import ROWS
from eclipse.classifiers.fit import Recipe, descend
from eclipse.classifiers.pgd import PGD, Transform, cross_entropy, pgd
from eclipse.compute.device import channels_last, seeded
from eclipse.compute.randomness import stream
from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import to_unit
from eclipse.errors import EclipseError
from eclipse.runs.state import Work, pack, unpack

SAVE = 25  # training steps after which the surrogate is saved

Move: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images in [0, 1], their labels and their noise, with the surrogate frozen and in evaluation mode, to images or
noise of the same shape; may draw from torch's global generators."""


@dataclass(frozen=True)
class Rounds:
    """How surrogate and noise take turns.

    Attributes:
        recipe: how the surrogate is trained; its epochs are the rounds, at most. Crop and flip are not used.
        train_steps: training steps of the surrogate in a round.
        target: accuracy of the surrogate on the poisoned images, in [0, 1], at which the rounds end.
        class_wise: one noise for each class in place of one for each image.
        share: of the images of each class that class-wise noise is made from.
    """

    recipe: Recipe
    train_steps: int
    target: float = 1.0
    class_wise: bool = False
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("train_steps", self.train_steps, 1),
            ("batch", self.recipe.batch, 2),  # BatchNorm needs two
            ("max_rounds", self.recipe.epochs, 1),
        ):
            if value < least:
                raise EclipseError(f"{name} {value}; expected at least {least}")
        for name, part in (("target", self.target), ("share", self.share)):
            if not 0 < part <= 1:
                raise EclipseError(f"{name} {part:g}; expected more than 0 and at most 1")


@dataclass(frozen=True)
class Moves:
    """What an attack does in its rounds.

    Attributes:
        renew: to the next noise of the images.
        lesson: to the images that the surrogate is trained on.
        view: how the surrogate sees poisoned images when its accuracy is measured.
    """

    renew: Move
    lesson: Move
    view: Transform


def as_it_is(x: Tensor) -> Tensor:
    """The view of a surrogate that sees images as they are."""
    return x


def poisoned(x: Tensor, noise: Tensor) -> Tensor:
    """Images with their noise, in [0, 1]."""
    return (x + noise).clamp(0, 1)


def min_min(network: nn.Module, how: PGD, view: Transform = as_it_is) -> Moves:
    """The moves of EM, through a view: both players lower the loss of the same images."""

    def renew(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return pgd(x, cross_entropy(network, y), how, transform=view, delta=noise)

    def lesson(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        return view(poisoned(x, noise))

    return Moves(renew, lesson, view)


@dataclass
class Alternation:
    """A crafting of error-minimizing noise together with its surrogate: ``craft`` it once.

    Attributes:
        network: the untrained surrogate, from [0, 1] images to logits; trained in place.
        optimizer: over its parameters.
        clean: a labelled set.
        rounds: see ``Rounds``.
        moves: see ``Moves``.
        work: its seed decides batches and all that the moves draw; the network is on its device.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    clean: ImageSet
    rounds: Rounds
    moves: Moves
    work: Work

    def __post_init__(self) -> None:
        channels_last(self.network)
        everyone = np.arange(len(self.clean))
        self._labels = self.clean.require_labels("crafting noise")
        # Where the noise of each row lies, which rows it is made from, and from where to where a part of it is saved.
        self._places = self._labels if self.rounds.class_wise else everyone
        self._rows = self._shares() if self.rounds.class_wise else everyone
        count = self.clean.num_classes if self.rounds.class_wise else len(self.clean)
        size = count if self.rounds.class_wise else ROWS
        self._parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
        self._noise = np.zeros((count, *self.clean.images.shape[1:]), np.float16)
        self._renewed = {part.start: 0 for part in self._parts}  # the round that a part of the noise is of
        self._step = 0  # training steps that are done

    def craft(self) -> NDArray[np.float16]:
        """Play the rounds, from where an interrupted crafting was.

        Returns:
            The noise of each image on the [0, 1] scale, (N, C, H, W).
        """
        self._resume()
        for number in range(max(1, math.ceil(self._step / self.rounds.train_steps)), self.rounds.recipe.epochs + 1):
            self._train(number)
            self._renew(number)
            accuracy = self._accuracy(number)
            self.work.state.tell("rounds", number, self.rounds.recipe.epochs, accuracy=accuracy)
            if accuracy >= self.rounds.target:
                break
        return self._noise[self._places]

    def _resume(self) -> None:
        if found := self.work.state.load("surrogate"):
            unpack(found[0], self.network, self.optimizer)
            self._step = found[1]["step"]
        for part in self._parts:
            if found := self.work.state.load(f"noise {part.start}"):
                self._noise[part] = found[0]["noise"].numpy()
                self._renewed[part.start] = found[1]["round"]

    def _train(self, number: int) -> None:
        """Train the surrogate up to the last step of a round."""
        steps = self.rounds.train_steps
        total = self.rounds.recipe.epochs * steps
        while self._step < number * steps:
            loss, accuracy = self._descend(self._step / total)
            self._step += 1
            if self._step % SAVE == 0 or self._step == number * steps:
                self.work.state.save("surrogate", pack(self.network, self.optimizer), {"step": self._step})
                self.work.state.tell("surrogate", self._step, total, loss=loss, accuracy=accuracy)

    def _descend(self, progress: float) -> tuple[float, float]:
        recipe = self.rounds.recipe
        self.optimizer.param_groups[0]["lr"] = recipe.rate(progress)
        with seeded(self.work.seed, "lesson", self._step, self.work.device):
            x, y, noise = self._batch(self._next_rows(recipe.batch))
            self._freeze()
            x = self.moves.lesson(x, y, noise)
            self.network.train().requires_grad_(True)
            loss, accuracy = descend(self.network, self.optimizer, x, y, recipe.clip).tolist()
        return loss, accuracy

    def _renew(self, number: int) -> None:
        """Renew all noise that is not of this round yet."""
        self._freeze()
        for part in self._parts:
            if self._renewed[part.start] < number:
                self._noise[part] = self._of_classes(number) if self.rounds.class_wise else self._of_rows(number, part)
                self._renewed[part.start] = number
                noise = torch.from_numpy(self._noise[part])
                self.work.state.save(f"noise {part.start}", {"noise": noise}, {"round": number})
                self.work.state.tell(f"noise of round {number}", part.stop, len(self._noise))

    def _of_rows(self, number: int, part: slice) -> NDArray[np.float16]:
        with seeded(self.work.seed, f"renewal {number}", part.start, self.work.device):
            return _half(self.moves.renew(*self._batch(self._rows[part])))

    def _of_classes(self, number: int) -> NDArray[np.float16]:
        """After each batch, the noise of a class becomes the mean of what its images would have."""
        noise = torch.from_numpy(self._noise).to(self.work.device, torch.float32)
        order = stream(self.work.seed, "", number, "alternating classes").permutation(self._rows)
        for first in range(0, len(order), self.rounds.recipe.batch):
            with seeded(self.work.seed, f"renewal {number}", first, self.work.device):
                x, y, _ = self._batch(order[first : first + self.rounds.recipe.batch])
                renewed = self.moves.renew(x, y, noise[y])
            for label in torch.unique(y):
                noise[label] = renewed[y == label].mean(dim=0)
        return _half(noise)

    @torch.no_grad()
    def _accuracy(self, number: int) -> float:
        """The share of the images, with their noise, that the surrogate classifies rightly."""
        self._freeze()
        hits = 0
        for first in range(0, len(self._rows), ROWS):
            with seeded(self.work.seed, f"accuracy {number}", first, self.work.device):
                x, y, noise = self._batch(self._rows[first : first + ROWS])
                hits += int((self.network(self.moves.view(poisoned(x, noise))).argmax(1) == y).sum())
        return hits / len(self._rows)

    def _batch(self, rows: NDArray[np.intp]) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and noise of some rows, on the device."""
        x = to_unit(torch.from_numpy(self.clean.images[rows]).to(self.work.device))
        noise = torch.from_numpy(self._noise[self._places[rows]]).to(self.work.device, torch.float32)
        return x, torch.from_numpy(self._labels[rows]).to(self.work.device), noise

    def _next_rows(self, batch: int) -> NDArray[np.intp]:
        """The rows of the next training step: all in random order, again and again, as many at a time."""
        batch = min(batch, len(self.clean))
        time, i = divmod(self._step, len(self.clean) // batch)
        order = stream(self.work.seed, "", time, "alternating order").permutation(len(self.clean))
        return order[i * batch : (i + 1) * batch]

    def _shares(self) -> NDArray[np.intp]:
        """Random rows, the same share of each class."""
        chosen = []
        for label in np.unique(self._labels).tolist():
            rows = np.flatnonzero(self._labels == label)
            rng = stream(self.work.seed, str(label), 0, "alternating share")
            chosen.append(rng.permutation(rows)[: math.ceil(self.rounds.share * len(rows))])
        return np.concatenate(chosen)

    def _freeze(self) -> None:
        self.network.eval().requires_grad_(False)


def _half(noise: Tensor) -> NDArray[np.float16]:
    half: NDArray[np.float16] = noise.to("cpu", torch.float16).numpy()
    return half
