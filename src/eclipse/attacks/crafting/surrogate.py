"""The stages of a crafting: the training of its surrogate, and the noise of all rows."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclipse.classifiers.classifier import Classifier, make_classifier
from eclipse.classifiers.fit import Adversary, Augment, Recipe, fit, make_optimizer
from eclipse.compute.device import channels_last, seeded
from eclipse.data.imageset import ImageSet
from eclipse.runs.state import State, Work, pack, unpack

ROWS = 256  # images whose noise is optimized at a time; part of what decides the bytes


def new_surrogate(arch: str, clean: ImageSet, work: Work) -> Classifier:
    """A fresh classifier for the classes and channels of a set, its weights decided by the seed."""
    with seeded(work.seed, f"surrogate {arch}"):
        channels, *sides = clean.images.shape[1:]
        return make_classifier(arch, clean.num_classes, channels, min(sides)).to(work.device)


def train_surrogate(
    network: Classifier,
    clean: ImageSet,
    recipe: Recipe,
    work: Work,
    *,
    augment: Augment | None = None,
    adversary: Adversary | None = None,
    keep: tuple[int, ...] = (),
) -> list[Classifier]:
    """Train a fresh surrogate on clean images; return it as it was after the epochs ``keep``, or after the last one.

    All copies, frozen and in evaluation mode. Goes on where an interrupted training was; a finished one costs nothing.
    """
    optimizer, state = make_optimizer(network, recipe), work.state
    kept = keep or (recipe.epochs,)
    states: dict[int, dict[str, Tensor]] = {}
    done = 0
    if found := state.load("surrogate"):
        unpack(found[0], network, optimizer)
        done = found[1]["epoch"]
        states = {epoch: _kept(state, epoch) for epoch in kept if epoch <= done}
    hooks: dict[str, Any] = {"augment": augment, "adversary": adversary, "optimizer": optimizer, "done": done}
    for event in fit(network, clean, recipe, seed=work.seed, device=work.device, **hooks):
        if event.epoch in kept:
            states[event.epoch] = {name: value.clone() for name, value in network.state_dict().items()}
            state.save(f"surrogate {event.epoch}", states[event.epoch], {})
        state.save("surrogate", pack(network, optimizer), {"epoch": event.epoch})
        state.tell("surrogate", event.epoch, recipe.epochs, accuracy=event.train_accuracy)
    return [_restored(network, states[epoch]) for epoch in kept]


def _kept(state: State, epoch: int) -> dict[str, Tensor]:
    found = state.load(f"surrogate {epoch}")
    assert found is not None  # it is saved before the epoch is on record
    return found[0]


def _restored(network: Classifier, state: Mapping[str, Tensor]) -> Classifier:
    """A copy of the network in a state, in evaluation mode, its weights no longer part of any gradient."""
    copied = deepcopy(network)
    copied.load_state_dict(state)
    return channels_last(copied).eval().requires_grad_(False)


def row_groups(clean: ImageSet) -> Iterator[slice]:
    """The rows of a set, ``ROWS`` at a time."""
    return (slice(first, min(first + ROWS, len(clean))) for first in range(0, len(clean), ROWS))


def craft_rows(
    clean: ImageSet, work: Work, craft: Callable[[slice], Tensor], *, stage: str = "noise"
) -> NDArray[np.float16]:
    """Craft the noise of all images, ``ROWS`` at a time, each group from its own random numbers.

    Args:
        clean: the images.
        work: its seed, with the stage and the first row of a group, decides what ``craft`` draws from torch's global
            generators; its state keeps the groups that are done.
        craft: from a slice of the rows to their noise on the [0, 1] scale, computed on the device of the work.
        stage: names the groups; attacks that craft all images more than once need a name for each time.

    Returns:
        float16, shaped like the images.
    """
    noise = np.empty(clean.images.shape, np.float16)
    for rows in row_groups(clean):
        found = work.state.load(f"{stage} {rows.start}")
        if found is None:
            with seeded(work.seed, stage, rows.start, work.device):
                part = craft(rows).to("cpu", torch.float16)
            work.state.save(f"{stage} {rows.start}", {"noise": part}, {})
        else:
            part = found[0]["noise"]
        noise[rows] = part.numpy()
        work.state.tell(stage, rows.stop, len(clean))
    return noise
