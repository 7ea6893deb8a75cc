"""A long crafting: where it keeps its state, how it tells its progress, and the training of a surrogate within it.

A crafting runs in stages ("surrogate", "noise"), each of which can be gone on with after a kill. What a stage draws
depends on (seed, stage, position) alone, so an interrupted crafting ends with the bytes of an undisturbed one.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eclipse.data.imageset import ImageSet
from eclipse.device import channels_last, seeded
from eclipse.errors import EclipseError
from eclipse.runs import write_whole
from eclipse.victims.classifier import Classifier, make_classifier
from eclipse.victims.fit import Adversary, Augment, Recipe, fit, make_optimizer

ROWS = 256  # images whose noise is optimized at a time; part of what decides the bytes


@dataclass(frozen=True)
class CraftStep:
    """How far a crafting is.

    Attributes:
        stage: what is being done, in words.
        done: parts of the stage that are done.
        total: parts of the stage; an upper bound where it ends when a goal is reached.
        facts: figures worth showing, such as the accuracy of the surrogate.
    """

    stage: str
    done: int
    total: int
    facts: Mapping[str, float]


class Crafting:
    """State and progress of a crafting.

    Args:
        folder: keeps the state of every stage, to go on after a kill; None keeps nothing.
        on_step: called whenever a part of a stage is done.
    """

    def __init__(self, folder: Path | None = None, on_step: Callable[[CraftStep], None] = lambda step: None) -> None:
        self.folder = folder
        self.on_step = on_step

    def load(self, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the facts that were saved last for a stage; None where there are none."""
        if self.folder is None or not self._file(stage).exists():
            return None
        from safetensors import safe_open

        try:
            with safe_open(self._file(stage), "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118, not a mapping
        except Exception as error:  # safetensors raises an error of its own on damaged files
            raise EclipseError(
                f"{self._file(stage)} cannot be read ({error}); delete {self.folder} to craft anew"
            ) from error

    def save(self, stage: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Keep the state of a stage, whole or not at all."""
        if self.folder is None:
            return
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(self._file(stage), save(flat, {"facts": json.dumps(dict(facts))}))

    def tell(self, stage: str, done: int, total: int, **facts: float) -> None:
        """Tell how far a stage is."""
        self.on_step(CraftStep(stage, done, total, facts))

    def _file(self, stage: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{stage.replace(' ', '-')}.safetensors"


def pack(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of a network and its optimizer (SGD) as named tensors."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items() if value is not None}
    return tensors


def unpack(tensors: Mapping[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Bring a network and its optimizer into a state from ``pack``."""
    parts: dict[str, Any] = {"network": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "network":
            parts[part][rest] = value
        elif part == "optimizer":
            i, _, key = rest.partition(".")
            parts[part].setdefault(int(i), {})[key] = value
    network.load_state_dict(parts["network"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": parts["optimizer"]})


def new_surrogate(arch: str, clean: ImageSet, seed: int, device: str) -> Classifier:
    """A fresh classifier for the classes and channels of a set, its weights decided by the seed."""
    with seeded(seed, f"surrogate {arch}"):
        channels, *sides = clean.images.shape[1:]
        return make_classifier(arch, clean.num_classes, channels, min(sides)).to(device)


def train_surrogate(
    network: Classifier,
    clean: ImageSet,
    recipe: Recipe,
    crafting: Crafting,
    *,
    seed: int,
    device: str,
    augment: Augment | None = None,
    adversary: Adversary | None = None,
    keep: tuple[int, ...] = (),
) -> list[Classifier]:
    """Train a fresh surrogate on clean images; return it as it was after the epochs ``keep``, or after the last one.

    All copies, frozen and in evaluation mode. Goes on where an interrupted training was; a finished one costs nothing.
    """
    optimizer = make_optimizer(network, recipe)
    kept = keep or (recipe.epochs,)
    states: dict[int, dict[str, Tensor]] = {}
    done = 0
    if found := crafting.load("surrogate"):
        unpack(found[0], network, optimizer)
        done = found[1]["epoch"]
        states = {epoch: _kept(crafting, epoch) for epoch in kept if epoch <= done}
    hooks: dict[str, Any] = {"augment": augment, "adversary": adversary, "optimizer": optimizer, "done": done}
    for event in fit(network, clean, recipe, seed=seed, device=device, **hooks):
        if event.epoch in kept:
            states[event.epoch] = {name: value.clone() for name, value in network.state_dict().items()}
            crafting.save(f"surrogate {event.epoch}", states[event.epoch], {})
        crafting.save("surrogate", pack(network, optimizer), {"epoch": event.epoch})
        crafting.tell("surrogate", event.epoch, recipe.epochs, accuracy=event.train_accuracy)
    return [_restored(network, states[epoch]) for epoch in kept]


def _kept(crafting: Crafting, epoch: int) -> dict[str, Tensor]:
    found = crafting.load(f"surrogate {epoch}")
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
    clean: ImageSet,
    crafting: Crafting,
    craft: Callable[[slice], Tensor],
    *,
    seed: int,
    device: str,
    stage: str = "noise",
) -> NDArray[np.float16]:
    """Craft the noise of all images, ``ROWS`` at a time, each group from its own random numbers.

    Args:
        clean: the images.
        crafting: keeps the groups that are done.
        craft: from a slice of the rows to their noise on the [0, 1] scale.
        seed: with the stage and the first row of a group decides what ``craft`` draws from torch's global generators.
        device: where ``craft`` computes.
        stage: names the groups; attacks that craft all images more than once need a name for each time.

    Returns:
        float16, shaped like the images.
    """
    noise = np.empty(clean.images.shape, np.float16)
    for rows in row_groups(clean):
        found = crafting.load(f"{stage} {rows.start}")
        if found is None:
            with seeded(seed, stage, rows.start, device):
                part = craft(rows).to("cpu", torch.float16)
            crafting.save(f"{stage} {rows.start}", {"noise": part}, {})
        else:
            part = found[0]["noise"]
        noise[rows] = part.numpy()
        crafting.tell(stage, rows.stop, len(clean))
    return noise
