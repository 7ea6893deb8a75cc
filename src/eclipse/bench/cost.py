"""What the missing cells of a grid will take: as finished ones took, or at a speed that is measured."""

import json
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from eclipse.attacks.cost import expected_cost, passes_per_s
from eclipse.bench.cells import Bench
from eclipse.bench.grid import Choice
from eclipse.bench.runner import Results
from eclipse.data.imageset import ImageSet
from eclipse.device import seeded
from eclipse.victims.classifier import make_classifier


@dataclass(frozen=True)
class Expected:
    """What a grid will take on one process.

    Attributes:
        poisons: from an attack that is still to be crafted to the minutes of that.
        cells: from a cell to the minutes of its victim, with its defense.
    """

    poisons: dict[str, float]
    cells: dict[Choice, float]

    @property
    def minutes(self) -> float:
        """All of it."""
        return sum(self.poisons.values()) + sum(self.cells.values())


def expected(bench: Bench, results: Results, cells: Sequence[Choice], train: ImageSet) -> Expected:
    """The minutes of each cell, with its defense: the median of finished ones of the same kind, where there are any.

    Else an undefended cell's, times the factor of the defense; where none is finished, its passes are counted, at the
    speed of a network that is measured on two batches. So are those of attacks; poisons in the cache cost nothing.
    """
    grid, known = bench.grid, _known(bench, results)
    for arch in {cell.arch for cell in cells} - {arch for defense, arch in known if defense == "none"}:
        known["none", arch] = _measured(bench, arch, train)
    poisons = {}
    for name in dict.fromkeys(cell.attack for cell in cells):
        if (attack := grid.attack(name)) and not bench.crafted(name):
            cost = expected_cost(attack, train, seed=grid.attacks.seed, device=bench.device)
            poisons[name] = cost.minutes if cost else 0.0
    minutes = {
        cell: known.get((cell.defense, cell.arch)) or known["none", cell.arch] * grid.defense(cell.defense).cost()
        for cell in cells
    }
    return Expected(poisons, minutes)


def _measured(bench: Bench, arch: str, train: ImageSet) -> float:
    """The minutes of an undefended cell, from the speed of its network on two batches."""
    channels, *sides = train.images.shape[1:]
    with seeded(0, "cost"):
        network = make_classifier(arch, train.num_classes, channels, min(sides))
    return bench.recipe.epochs * len(train) / passes_per_s(network, train, bench.device) / 60


def _known(bench: Bench, results: Results) -> dict[tuple[str, str], float]:
    """From defense and network to the median minutes of finished cells."""
    found: dict[tuple[str, str], list[float]] = {}
    for cell in bench.grid.cells():
        path = results.finished(bench.name(cell))
        if path.exists():
            with suppress(ValueError, KeyError, TypeError):  # a damaged result tells nothing
                seconds = json.loads(path.read_text())["seconds"]
                found.setdefault((cell.defense, cell.arch), []).append((seconds["prepare"] + seconds["train"]) / 60)
    return {kind: statistics.median(minutes) for kind, minutes in found.items()}
