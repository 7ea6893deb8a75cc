"""What the missing cells of a grid will take, at a speed that is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from eclipse.attacks.cost import expected_cost, passes_per_s
from eclipse.bench.cells import Bench
from eclipse.bench.grid import Choice
from eclipse.data.imageset import ImageSet
from eclipse.device import seeded
from eclipse.victims.classifier import make_classifier


@dataclass(frozen=True)
class Expected:
    """What a grid will take on one process.

    Attributes:
        poisons: from an attack to the minutes of its crafting.
        cells: from a cell to the minutes of its victim, with its defense.
    """

    poisons: dict[str, float]
    cells: dict[Choice, float]

    @property
    def minutes(self) -> float:
        """All of it."""
        return sum(self.poisons.values()) + sum(self.cells.values())


def expected(bench: Bench, cells: Sequence[Choice], train: ImageSet) -> Expected:
    """Measure the networks on two batches each, and count the passes of attacks and victims.

    Poisons that are in the cache count as if they were not; those without a network count nothing.
    """
    grid, recipe = bench.grid, bench.recipe
    channels, *sides = train.images.shape[1:]
    speed = {}
    for arch in dict.fromkeys(cell.arch for cell in cells):
        with seeded(0, "cost"):
            network = make_classifier(arch, train.num_classes, channels, min(sides))
        speed[arch] = passes_per_s(network, train, bench.device)
    poisons = {}
    for name in dict.fromkeys(cell.attack for cell in cells):
        attack = grid.attack(name)
        cost = attack and expected_cost(attack, train, seed=grid.attacks.seed, device=bench.device)
        poisons[name] = cost.minutes if cost else 0.0
    passes = recipe.epochs * len(train)
    minutes = {cell: passes * grid.defense(cell.defense).cost() / speed[cell.arch] / 60 for cell in cells}
    return Expected(poisons, minutes)
