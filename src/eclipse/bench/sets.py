"""The sets of a grid, loaded and checked against each other."""

from dataclasses import dataclass
from pathlib import Path

from eclipse.bench.grid import Data, Grid
from eclipse.data.imageset import ImageSet
from eclipse.data.overlap import check_apart_from_test
from eclipse.data.source import load_imageset, open_source
from eclipse.defenses.dilution import fitting
from eclipse.defenses.victim import check_sets
from eclipse.errors import EclipseError

_PAPERS = 'say protocol = "paper-overlap" to repeat the paper\'s own mistake'


@dataclass(frozen=True)
class Sets:
    """The sets of a grid; see ``grid.Data``."""

    train: ImageSet
    test: ImageSet
    trusted: ImageSet | None
    clean: ImageSet | None


def load_sets(grid: Grid, root: Path) -> Sets:
    """Load the sets of a grid and check that they fit each other.

    Args:
        grid: names the sets.
        root: what their paths are relative to.

    Raises:
        EclipseError: a set that cannot be read, sizes, classes or labels that do not fit, test images that play
            another part as well.
    """
    sources = {name: open_source(rooted(spec, root)) for name, spec in _named(grid.data).items()}
    images = {name: load_imageset(source, "a grid") for name, source in sources.items()}
    check_sets(images["train"], images["test"])
    for name, others in (("trusted", images.get("trusted")), ("clean", images.get("clean"))):
        if others is not None and others.images.shape[1:] != images["train"].images.shape[1:]:
            raise EclipseError(f"the {name} images of {grid.path} are of another size than the training images")
    for name in grid.defenses.names:
        if grid.defense(name).needs() == "labelled images":
            fitting(images["train"], images.get("trusted"), name)
    apart = [name for name in sources if name == "train" or (name != "test" and grid.protocol != "paper-overlap")]
    for name in apart:
        remedy = "choose other slices" + ("" if name == "train" else f", or {_PAPERS}")
        check_apart_from_test(sources["test"], images["test"], sources[name], images[name], name, remedy)
    return Sets(images["train"], images["test"], images.get("trusted"), images.get("clean"))


def rooted(spec: str, root: Path) -> str:
    """A data set below a folder; one on the Hub, or with an absolute path, as it is."""
    return spec if spec.startswith("hf:") else str(root / spec)


def _named(data: Data) -> dict[str, str]:
    sets = {"train": data.train, "test": data.test, "trusted": data.trusted, "clean": data.clean}
    return {name: spec for name, spec in sets.items() if spec is not None}
