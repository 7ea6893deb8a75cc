"""What the missing cells of a grid will take: as finished ones took, or at a speed that is measured."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eclipse.attacks.crafting.cost import expected_cost, passes_per_s
from eclipse.bench.cell import Bench
from eclipse.bench.grid import Choice
from eclipse.bench.result import NONE, Folder
from eclipse.classifiers.classifier import make_classifier
from eclipse.compute.device import enough_memory, seeded
from eclipse.data.imageset import ImageSet
from eclipse.runs.state import Work

Key = TypeVar("Key")


@dataclass(frozen=True)
class Expected:
    """What a grid will take on one process.

    Attributes:
        poisons: from an attack that is still to be crafted to the minutes of that.
        prepared: from a defense to the minutes in which it makes the sets that it trains on; only what is known of
            finished cells, as the others have it in the minutes of theirs.
        cells: from a cell to the minutes of its victim.
        unsure: the defenses that prepare a set and none of whose cells is finished.
    """

    poisons: dict[str, float]
    prepared: dict[str, float]
    cells: dict[Choice, float]
    unsure: tuple[str, ...]

    @property
    def minutes(self) -> float:
        """All of it."""
        return sum(part for parts in (self.poisons, self.prepared, self.cells) for part in parts.values())


def expected(bench: Bench, folder: Folder, cells: Sequence[Choice], train: ImageSet) -> Expected:
    """The minutes of each cell: the median of finished ones of the same kind, where there are any.

    Else an undefended cell's, times the factor of the defense, which has its preparation in it; where none is finished,
    its passes are counted, at the speed of a network that is measured on two batches. So are those of attacks. What is
    in the cache costs nothing.
    """
    victims, preparations = _known(bench, folder)
    for arch in {cell.arch for cell in cells} - {arch for defense, arch in victims if defense == NONE}:
        victims[NONE, arch] = _measured(bench, arch, train)
    minutes = {
        cell: victims.get((cell.defense, cell.arch))
        or victims[NONE, cell.arch] * bench.grid.defense(cell.defense).cost()
        for cell in cells
    }
    unsure = tuple(
        name
        for name in dict.fromkeys(cell.defense for cell in cells)
        if name not in preparations and bench.grid.defense(name).preparation() is not None
    )
    return Expected(_poisons(bench, cells, train), _prepared(bench, cells, preparations), minutes, unsure)


def _poisons(bench: Bench, cells: Sequence[Choice], train: ImageSet) -> dict[str, float]:
    """From each attack whose set is not in the cache to the minutes of its passes."""
    found = {}
    for name in dict.fromkeys(cell.attack for cell in cells):
        if (attack := bench.grid.attack(name)) and not bench.crafted(name):
            cost = expected_cost(attack, train, Work(bench.grid.attacks.seed, bench.device))
            found[name] = cost.minutes if cost else 0.0
    return found


def _prepared(bench: Bench, cells: Sequence[Choice], minutes: Mapping[str, float]) -> dict[str, float]:
    """From each defense to the minutes of the sets that are not in the cache, given those of one."""
    asked = dict.fromkeys((cell.defense, cell.attack) for cell in cells if minutes.get(cell.defense))
    missing = Counter(defense for defense, attack in asked if not bench.prepared(defense, attack))
    return {defense: count * minutes[defense] for defense, count in missing.items()}


def _measured(bench: Bench, arch: str, train: ImageSet) -> float:
    """The minutes of an undefended cell, from the speed of its network on two batches."""
    channels, *sides = train.images.shape[1:]
    with seeded(0, "cost"):
        network = make_classifier(arch, train.num_classes, channels, min(sides))
    with enough_memory(bench.device, f"to train {arch}"):
        return bench.recipe.epochs * len(train) / passes_per_s(network, train, bench.device) / 60


def _known(bench: Bench, folder: Folder) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """The median minutes of finished cells: from defense and network to the victim's, from defense to preparation's."""
    victims: dict[tuple[str, str], list[float]] = {}
    preparations: dict[str, list[float]] = {}
    for cell in folder.results(bench.asked().cells).values():
        victims.setdefault((cell.defense.name, cell.victim.arch), []).append(cell.seconds.train / 60)
        preparations.setdefault(cell.defense.name, []).append(cell.seconds.prepare / 60)
    return _medians(victims), _medians(preparations)


def _medians(found: Mapping[Key, list[float]]) -> dict[Key, float]:
    return {kind: statistics.median(minutes) for kind, minutes in found.items()}
