"""The sets of a grid, loaded and checked against each other."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from eclipse.bench.grid import Data, Grid
from eclipse.data.imageset import ImageSet
from eclipse.data.rows import Source
from eclipse.data.sources import load_imageset, open_source, split_slice
from eclipse.defenses.dilution import fitting
from eclipse.errors import EclipseError
from eclipse.evaluation import check_sets

_CHANCE = 0.01  # the share of equal images that a data set may have by itself, by having some twice


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
    _check_overlap("train", sources, images)
    if grid.protocol != "paper-overlap":
        for name in ("trusted", "clean"):
            if name in sources:
                _check_overlap(name, sources, images)
    return Sets(images["train"], images["test"], images.get("trusted"), images.get("clean"))


def rooted(spec: str, root: Path) -> str:
    """A data set below a folder; one on the Hub, or with an absolute path, as it is."""
    return spec if spec.startswith("hf:") else str(root / spec)


def _named(data: Data) -> dict[str, str]:
    sets = {"train": data.train, "test": data.test, "trusted": data.trusted, "clean": data.clean}
    return {name: spec for name, spec in sets.items() if spec is not None}


def _check_overlap(name: str, sources: dict[str, Source], images: dict[str, ImageSet]) -> None:
    """Refuse a set that shares rows, or more than a few equal images, with the test images."""
    test, other = sources["test"], sources[name]
    remedy = "choose other slices" + (
        "" if name == "train" else ', or say protocol = "paper-overlap" to repeat the paper\'s own mistake'
    )
    same = split_slice(test.spec)[0] == split_slice(other.spec)[0]
    shared = set(images["test"].ids) & set(images[name].ids) if same else set()
    if shared:
        raise EclipseError(f"{len(shared)} rows of {test.spec} are in {other.spec} ({name}), too; {remedy}")
    equal = len(_digests(images["test"]) & _digests(images[name]))
    if equal > _CHANCE * len(images["test"]):
        raise EclipseError(f"{equal} test images of {test.spec} are in {other.spec} ({name}), too; {remedy}")


def _digests(images: ImageSet) -> set[bytes]:
    return {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images.images}
