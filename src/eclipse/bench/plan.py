"""What a run of a grid is asked for: its sets are loaded and all is checked before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eclipse.attacks.imported import is_perturbation, open_imported
from eclipse.bench.cache import Cache
from eclipse.bench.cell import Bench
from eclipse.bench.cost import Expected, expected
from eclipse.bench.grid import Choice, Grid, read_grid
from eclipse.bench.result import OVERLAP, Folder, versions_of
from eclipse.bench.runner import chosen
from eclipse.compute.device import describe_device, resolve_device
from eclipse.data.imageset import ImageSet
from eclipse.data.overlap import check_apart_from_test
from eclipse.data.picture import repainted
from eclipse.data.source import load_imageset, open_source
from eclipse.defenses.dilution import fitting
from eclipse.defenses.victim import check_sets
from eclipse.errors import EclipseError
from eclipse.runs.manifest import OURS, versions

_REMEDY = "name it in [data], such as resize = 64"
_PAPERS = f'say protocol = "{OVERLAP}" to repeat the paper\'s own mistake'


@dataclass(frozen=True)
class Plan:
    """A run that was checked.

    Attributes:
        bench: the grid with its sets.
        results: where results go.
        chosen: the cells that were asked for.
        missing: those of them that are not finished.
        sets: by their names in the grid.
        imported: from the name of each imported poison to what it is, in words.
        root: what the paths in the grid are relative to.
        versions: how many of its finished cells each version of this package made.
    """

    bench: Bench
    results: Folder
    chosen: list[Choice]
    missing: list[Choice]
    sets: dict[str, ImageSet]
    imported: dict[str, str]
    root: Path
    versions: dict[str, int]

    def in_words(self) -> dict[str, Any]:
        """What to tell the user before work starts."""
        grid, sizes = self.bench.grid, {name: f"{len(images):,}" for name, images in self.sets.items()}
        resized = "" if grid.data.resize is None else f", resized to {grid.data.resize}x{grid.data.resize}"
        todo = f"{len(self.missing)} of {len(self.chosen)} to do"
        return {
            "grid": f"{grid.name}, {len(grid.cells())} cells, {todo}",
            "data": f"{grid.data.name}: {sizes['train']} training images, {sizes['test']} test images{resized}",
            **({"imported poisons": self.imported} if self.imported else {}),
            "protocol": grid.protocol,
            "recipe": f"{grid.victims.recipe}, {self.bench.recipe.epochs} epochs",
            "device": describe_device(self.bench.device),
            "results": self.results.path,
        }

    def notes(self) -> list[str]:
        """Which finished cells were made by another version of this package."""
        ours = versions()[OURS]
        others = [f"{count} are of {OURS} {version}" for version, count in self.versions.items() if version != ours]
        if not others:
            return []
        return [
            f"of the finished cells, {' and '.join(others)}, and this is {ours}: they stay as they are, and a "
            "report tells it; for cells of one version, choose another --out"
        ]

    def cost(self) -> Expected:
        """What the missing cells will take."""
        return expected(self.bench, self.results, self.missing, self.sets["train"])

    def keep_sets(self) -> None:
        """Put the sets where the processes find them."""
        cache = Cache(self.bench.cache)
        for images in self.sets.values():
            cache.keep(images)
        for name in dict.fromkeys(cell.attack for cell in self.missing if cell.attack in self.imported):
            if not cache.keeps(fingerprint := self.bench.imported[name]):
                images, _ = load_imported(self.bench.grid, self.root, name, self.sets["train"])
                if cache.keep(images) != fingerprint:
                    raise EclipseError(
                        f"the imported poison {name!r} was changed meanwhile; run the same command again"
                    )


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
    read, results, where = read_grid(grid), Folder(out), resolve_device(device)
    sets = load_sets(read, data)
    fingerprints = {name: images.fingerprint() for name, images in sets.items()}
    trusted = len(sets["trusted"]) if "trusted" in sets else None
    imported, words = dict[str, str](), dict[str, str]()
    for name in read.attacks.imported:  # one after the other, as each has the size of the training set
        images, words[name] = load_imported(read, data, name, sets["train"])
        imported[name] = images.fingerprint()
    bench = Bench(read, fingerprints, cache or out / ".cache", where, trusted, imported)
    results.check(read.name)
    picked, finished = chosen(bench, cells), results.finished()
    missing = [choice for choice in picked if bench.name(choice) not in finished]
    made = (finished[name][1] for cell in read.cells() if (name := bench.name(cell)) in finished)
    by = versions_of(found if isinstance(found := line.get("versions"), dict) else {} for line in made)
    return Plan(bench, results, picked, missing, sets, words, data, by)


def load_sets(grid: Grid, root: Path) -> dict[str, ImageSet]:
    """Load the sets of a grid, by their names in ``grid.Data``, and check that they fit each other.

    Args:
        grid: names the sets.
        root: what their paths are relative to.

    Raises:
        EclipseError: a set that cannot be read, sizes, classes or labels that do not fit, test images that play
            another part as well.
    """
    side = grid.data.resize
    sources = {name: open_source(_rooted(spec, root), side=side) for name, spec in grid.data.sets.items()}
    images = {name: load_imageset(source, "a grid", _REMEDY) for name, source in sources.items()}
    check_sets(images["train"], images["test"])
    for name in ("trusted", "clean"):
        if name in images and images[name].images.shape[1:] != images["train"].images.shape[1:]:
            raise EclipseError(f"the {name} images of {grid.path} are of another size than the training images")
    for name in grid.defenses.names:
        if grid.defense(name).needs() == "labelled images":
            fitting(images["train"], images.get("trusted"), name)
    apart = [name for name in sources if name == "train" or (name != "test" and grid.protocol != OVERLAP)]
    for name in apart:
        remedy = "choose other slices" + ("" if name == "train" else f", or {_PAPERS}")
        check_apart_from_test(sources["test"], images["test"], sources[name], images[name], name, remedy)
    return images


def load_imported(grid: Grid, root: Path, name: str, train: ImageSet) -> tuple[ImageSet, str]:
    """Load a poison that others have made, as the training set with its pixels, and say in words what it is.

    Args:
        grid: names it.
        root: what paths are relative to.
        name: of the poison.
        train: the training set.

    Raises:
        EclipseError: it cannot be read, or does not certainly belong to the training set row by row, or is the same.
    """
    asked = grid.attacks.imported[name]
    spec, images = _rooted(asked.path, root), np.empty_like(train.images)
    clean = open_source(_rooted(grid.data.train, root), side=grid.data.resize)
    try:
        if is_perturbation(spec) and None in (asked.sign, asked.unit):
            form = f'{{path = "{asked.path}", sign = 1, unit = "levels"}}'
            raise EclipseError(f"{spec} is a perturbation; say how to add it, as {form}, with sign -1 or unit unit")
        found = open_imported(spec, clean, asked.sign, asked.unit)
        for place, (_, picture, pixels) in enumerate(found.rows(clean)):
            images[place] = repainted(picture, pixels).rgb
        clean.check_unchanged()
    except EclipseError as error:
        raise EclipseError(f"imported poison {name!r} of {grid.path}: {error}") from error
    if np.array_equal(images, train.images):
        raise EclipseError(
            f"the imported poison {name!r} of {grid.path} changes nothing: {spec} is as the clean images; expected "
            "poisoned ones"
        )
    how = "".join(f", {word} {value}" for word, value in found.how.items())
    return train.with_images(images), f"{found.kind} in {asked.path}{how}"


def _rooted(spec: str, root: Path) -> str:
    """A data set below a folder; one on the Hub, or with an absolute path, as it is."""
    return spec if spec.startswith("hf:") else str(root / spec)
