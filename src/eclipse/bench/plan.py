"""What a run of a grid is asked for, checked before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eclipse.bench.cache import Cache
from eclipse.bench.cell import Bench
from eclipse.bench.cost import Expected, expected
from eclipse.bench.grid import Choice, read_grid
from eclipse.bench.runner import Results, chosen
from eclipse.bench.sets import load_sets
from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.imageset import ImageSet


@dataclass(frozen=True)
class Plan:
    """A run that was checked.

    Attributes:
        bench: the grid with its sets.
        results: where results go.
        chosen: the cells that were asked for.
        missing: those of them that are not finished.
        sets: by their names in the grid.
    """

    bench: Bench
    results: Results
    chosen: list[Choice]
    missing: list[Choice]
    sets: dict[str, ImageSet]

    def in_words(self) -> dict[str, Any]:
        """What to tell the user before work starts."""
        grid, sizes = self.bench.grid, {name: f"{len(images):,}" for name, images in self.sets.items()}
        todo = f"{len(self.missing)} of {len(self.chosen)} to do"
        return {
            "grid": f"{grid.name}, {len(grid.cells())} cells, {todo}",
            "data": f"{grid.data.name}: {sizes['train']} training images, {sizes['test']} test images",
            "protocol": grid.protocol,
            "recipe": f"{grid.victims.recipe}, {self.bench.recipe.epochs} epochs",
            "device": describe_device(self.bench.device),
            "results": self.results.folder,
        }

    def cost(self) -> Expected:
        """What the missing cells will take."""
        return expected(self.bench, self.results, self.missing, self.sets["train"])

    def keep_sets(self) -> None:
        """Put the sets where the processes find them."""
        cache = Cache(self.bench.cache)
        for images in self.sets.values():
            cache.keep(images)


def plan(grid: Path, data: Path, out: Path, *, cells: Sequence[str], cache: Path | None, device: str) -> Plan:
    """Read and check a grid, its sets and the folder of its results.

    Args:
        grid: a TOML file.
        data: what the paths in it are relative to.
        out: folder of the results.
        cells: words that pick some, see ``chosen``; none for all.
        cache: folder of what cells share; None for one in ``out``.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        EclipseError: what cannot be run.
    """
    read, results, where = read_grid(grid), Results(out), resolve_device(device)
    sets = {name: images for name, images in vars(load_sets(read, data)).items() if images is not None}
    fingerprints = {name: images.fingerprint() for name, images in sets.items()}
    trusted = len(sets["trusted"]) if "trusted" in sets else None
    bench = Bench(read, fingerprints, cache or out / ".cache", where, trusted)
    results.check(bench)
    picked = chosen(bench, cells)
    missing = [choice for choice in picked if not results.finished(bench.name(choice)).exists()]
    return Plan(bench, results, picked, missing, sets)
