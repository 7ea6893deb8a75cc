"""Other people's poisons: images that take the place of a data set's rows, or a perturbation to add to them.

What belongs to which row must be certain: by the order of the rows, by names or by numbers, and by labels where both
sets have them. A folder has no order of its own, so its names must tell.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclipse.data.layouts.folder import FolderStore, without_ending
from eclipse.data.layouts.npz import array_headers, load_array
from eclipse.data.picture import Picture, Pixels, size_in_words
from eclipse.data.pixels import add
from eclipse.data.source import layout_of, open_source
from eclipse.data.store import Row, Source, comparable_classes, fingerprint_files
from eclipse.errors import EclipseError, reading, unknown

_TENSORS = (".pt", ".pth")
_NAMES = ("perturbation", "noise", "delta")  # what the array is called, where a file holds several
_OF_IMAGES = 0.5  # of the whole scale: values from 0 to above it are no perturbation
_AS_NPY = ".npy: numpy.save('noise.npy', array)"

UNITS = {"levels": 255.0, "unit": 1.0}
"""Scales of a perturbation, and the largest value that each can have."""

Poisoned = Iterator[tuple[Row, Picture, Pixels]]
"""Each row of a clean set, its picture, and its new pixels (3, H, W)."""


class Imported(Protocol):
    """A poison that others have made for a clean set."""

    @property
    def kind(self) -> str:
        """What it is, in words."""

    @property
    def how(self) -> Mapping[str, Any]:
        """What the user said of it."""

    def fingerprint(self) -> str:
        """Of the files that it comes from."""

    def rows(self, clean: Source) -> Poisoned:
        """The rows of the clean set with their new pixels."""


def open_imported(spec: str, clean: Source, sign: int | None = None, unit: str | None = None) -> Imported:
    """Open a poison of others, checked as far as the clean images need not be decoded for it.

    Args:
        spec: of images that others have poisoned, as for ``open_source``; or the file of a perturbation.
        clean: the set that it belongs to; where its images are resized, poisoned ones are, too, and a perturbation is
            for the resized ones.
        sign: 1 or -1, what a perturbation is multiplied with.
        unit: scale of a perturbation, a name in ``UNITS``.

    Raises:
        EclipseError: it does not fit the set, or its sign or scale is not said or cannot be meant.
    """
    if sign not in (None, 1, -1):
        raise EclipseError(f"--sign {sign}; expected 1 or -1")
    if unit is not None and unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    if is_perturbation(spec):
        perturbation = read_perturbation(Path(spec), clean)
        return SignedPerturbation(perturbation, *_checked(spec, perturbation, sign, unit))
    pickled = Path(spec).is_file() and layout_of(spec) == "pickle"
    if pickled and (sign or unit):
        raise EclipseError(f"{spec} is a pickle, which can hold code; expected a perturbation as {_AS_NPY}")
    if sign or unit:
        raise EclipseError(f"--sign and --unit are for perturbations, and {spec} is images; leave them out")
    try:
        images = PoisonedImages(open_source(spec, side=clean.side))
    except EclipseError as error:
        if pickled:
            raise EclipseError(f"{error}, or a perturbation to {_AS_NPY}") from error
        raise
    _order(clean, images.source)  # refuses images that are too many or too few
    return images


def _checked(spec: str, perturbation: "Perturbation", sign: int | None, unit: str | None) -> tuple[int, str]:
    """Refuse a perturbation whose sign or scale is not said, or cannot be meant."""
    low, high = perturbation.range()
    held = f"{spec} is a perturbation with values from {low:.4g} to {high:.4g}"
    if sign is None or unit is None:
        raise EclipseError(
            f"{held}; say how to add it: --sign 1 or --sign -1, and --unit levels (8-bit) or --unit unit ([0, 1] scale)"
        )
    limit = UNITS[unit]
    most = max(abs(low), abs(high)) / limit
    if low >= 0 and most > _OF_IMAGES:
        raise EclipseError(
            f"{held} and none below 0, like images; expected what is added to them: save images as uint8 'images' in "
            "an .npz"
        )
    if most > 1:
        raise EclipseError(f"{held}, and --unit {unit} goes from {-limit:g} to {limit:g}; give the other unit")
    if most * 255 < 0.5:
        raise EclipseError(f"{held}, less than half a level with --unit {unit}; expected one that is seen")
    return sign, unit


# ---- images


@dataclass(frozen=True, eq=False)
class PoisonedImages:
    """Images that take the place of those of a clean set.

    Rows belong together by position; images in a folder by their names, which are those of the clean folder or numbers
    (``0.png`` or ``poison_0.png`` is for the first row).
    """

    source: Source
    kind: str = "images"
    how: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Of the source."""
        return self.source.fingerprint()

    def rows(self, clean: Source) -> Poisoned:
        """Raises EclipseError for an image of another size, or of another class where both know it."""
        theirs = _in_order(self.source, _order(clean, self.source))
        for row, other in zip(clean.labelled(), theirs, strict=True):
            _check_label(clean, row, self.source, other)
            picture, pixels = row.picture(), other.picture().rgb
            if pixels.shape != picture.rgb.shape:
                raise EclipseError(
                    f"{other.name} is {size_in_words(pixels)} and {row.name}, whose place it takes, is "
                    f"{size_in_words(picture.rgb)}; expected images of the same size"
                )
            yield row, picture, pixels
        self.source.check_unchanged()


def _in_order(poisoned: Source, order: list[int] | None) -> Iterator[Row]:
    """The rows in an order; as they come in bounded memory, else with all encoded images in it."""
    if order is None:
        return poisoned.labelled()
    rows = list(poisoned.labelled())
    return (rows[place] for place in order)


def _order(clean: Source, poisoned: Source) -> list[int] | None:
    """The place of the image for each clean row among the poisoned ones; None where it is the same."""
    if poisoned.layout == "folder":
        names = _image_names(poisoned)
        places = {without_ending(name): place for place, name in enumerate(names)}
        wanted = [without_ending(name) for name in _image_names(clean)] if clean.layout == "folder" else []
        if sorted(wanted) == sorted(places) and len(places) == len(names):
            return [places[name] for name in wanted]
        if any(map(_number, names)) and (not poisoned.has_labels or len(poisoned) == len(clean)):
            order = _by_number(clean, poisoned, names)
            if not poisoned.has_labels:
                _check_stems(clean, poisoned, wanted, [names[place] for place in order])
            return order
    if len(poisoned) != len(clean):
        raise EclipseError(
            f"{poisoned.spec} has {len(poisoned)} images and {clean.spec} has {len(clean)} rows; expected one for each "
            "row: give the set that was poisoned, or a slice of either"
        )
    if poisoned.layout == "folder":
        raise EclipseError(
            f"the images in {poisoned.spec} do not tell by their names to which rows of {clean.spec} they belong; "
            "expected the names of the clean images, or numbers from 0.png on: rename them"
        )
    _check_ordered(clean, poisoned.spec)
    return None


def _check_stems(clean: Source, poisoned: Source, ours: list[str], theirs: list[str]) -> None:
    """Refuse numbers that could be those of rows or the names of files, where these do not agree."""
    mine, others = ([PurePosixPath(name).stem for name in names] for names in (ours, theirs))
    if mine != others and sorted(mine) == sorted(others):
        raise EclipseError(
            f"the numbers in {poisoned.spec} may be rows of {clean.spec} or the names of its files, which differ; "
            "expected folders and names as in the clean set: sort the images into its folders"
        )


def _check_ordered(clean: Source, poison: str) -> None:
    """Refuse a clean folder whose rows may be meant in the order of their numbers, not in that of their names."""
    names = _image_names(clean) if clean.layout == "folder" else []
    by_number = sorted(
        names,
        key=lambda name: [
            (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)
        ],
    )
    if names != by_number:
        first, other = next((a, b) for a, b in zip(names, by_number, strict=True) if a != b)
        raise EclipseError(
            f"{clean.spec} has {first} before {other}, in the order of text, and the rows of {poison} may follow the "
            "numbers; expected one order: give the numbers zeros in front, or images with the names of the clean ones"
        )


def _image_names(folder: Source) -> list[str]:
    """The names of the images in a folder, in the order of its rows."""
    assert isinstance(folder.store, FolderStore)
    return list(islice(folder.store.images(), folder.span.start, folder.span.stop))


def _number(name: str) -> re.Match[str] | None:
    """The last number in the name of a file, with what stands before and after it."""
    return re.fullmatch(r"(.*?)(\d{1,18})(\D*)", PurePosixPath(name).stem, re.ASCII | re.DOTALL)


def _by_number(clean: Source, poisoned: Source, names: list[str]) -> list[int]:
    """The order of images that are named by the number of their row, all in the same way."""
    ways = Counter((found[1], found[3]) for name in names if (found := _number(name)))
    (before, after), _ = ways.most_common(1)[0]
    rows: dict[int, int] = {}
    last = len(clean) - 1
    expected = f"{before}0{after}.png to {before}{last}{after}.png, one for each"
    for place, name in enumerate(names):
        found = _number(name)
        fits = found and (found[1], found[3]) == (before, after) and ("/" not in name or poisoned.has_labels)
        row = int(found[2]) if found and fits else -1
        if not 0 <= row <= last or row in rows:
            raise EclipseError(f"{name} in {poisoned.spec} has no row in {clean.spec}; expected {expected}")
        rows[row] = place
    missing = next((row for row in range(len(clean)) if row not in rows), None)
    if missing is not None:
        raise EclipseError(
            f"{before}{missing}{after}.png is missing in {poisoned.spec}; expected {expected} row of {clean.spec}"
        )
    return [rows[row] for row in range(len(clean))]


def _check_label(clean: Source, row: Row, poisoned: Source, other: Row) -> None:
    ours, theirs = comparable_classes(clean, row, poisoned, other)
    if ours is not None and theirs is not None and ours != theirs:
        raise EclipseError(
            f"{other.name} is of class {theirs} and {row.name}, whose place it takes, of class {ours}; expected the "
            "same rows in the same order"
        )


# ---- perturbations


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What is to be added to the images of a data set.

    Attributes:
        path: the file that it comes from.
        values: of any real type and scale, (rows or classes, 1 or 3, H, W).
        class_wise: one for each class and not for each row.
    """

    path: Path
    values: NDArray[Any]
    class_wise: bool

    def of(self, place: int, row: Row) -> NDArray[np.float32]:
        """The values for the row at a place of the data set, (1 or 3, H, W)."""
        if self.class_wise and (row.label is None or not 0 <= row.label < len(self.values)):
            raise EclipseError(
                f"{row.name} has label {row.label} and {self.path} holds a perturbation for each of {len(self.values)} "
                "classes; expected a label for each row, from 0 on"
            )
        return self.values[row.label if self.class_wise else place].astype(np.float32)

    def fingerprint(self) -> str:
        """As that of a ``Source``."""
        return fingerprint_files("perturbation", [(self.path.name, self.path)])

    def range(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return float(self.values.min()), float(self.values.max())


@dataclass(frozen=True, eq=False)
class SignedPerturbation:
    """A perturbation, and how it is added."""

    perturbation: Perturbation
    sign: int
    unit: str

    @property
    def kind(self) -> str:
        """For each image, or for each class."""
        return f"perturbation of each {'class' if self.perturbation.class_wise else 'image'}"

    @property
    def how(self) -> Mapping[str, Any]:
        """Sign and unit."""
        return {"sign": self.sign, "unit": self.unit}

    def fingerprint(self) -> str:
        """Of the file."""
        return self.perturbation.fingerprint()

    def rows(self, clean: Source) -> Poisoned:
        """Raises EclipseError for an image of another size than the perturbation."""
        scale = self.sign / UNITS[self.unit]
        for place, row in enumerate(clean.labelled()):
            picture, values = row.picture(), self.perturbation.of(place, row)
            if picture.rgb.shape[1:] != values.shape[1:]:
                raise EclipseError(
                    f"{row.name} is {size_in_words(picture.rgb)} and the perturbation is {size_in_words(values)}; "
                    "expected the same size"
                )
            yield row, picture, add(picture.rgb, scale * values)


def is_perturbation(spec: str) -> bool:
    """Whether a path leads to a perturbation; images in an .npz are called ``images``."""
    path = Path(spec)
    if path.suffix.lower() == ".npz" and path.is_file():
        return "images" not in array_headers(path)
    return path.suffix.lower() in (*_TENSORS, ".npy")


def read_perturbation(path: Path, clean: Source) -> Perturbation:
    """Read a perturbation for a data set from a .pt, .npy or .npz file, without running what is in it.

    Raises:
        EclipseError: no such file, no array of numbers in it, or one that does not fit the data set.
    """
    if not path.is_file():
        raise EclipseError(f"no such file: {str(path)!r}; expected a perturbation as .pt, .npy or .npz")
    shape, load = _open(path)
    height, width = next(clean.rows()).picture().rgb.shape[1:]
    first_channels = len(shape) == 4 and shape[1] in (1, 3) and shape[2:] == (height, width)
    last_channels = len(shape) == 4 and shape[3] in (1, 3) and shape[1:3] == (height, width)
    class_wise = len(shape) > 0 and shape[0] != len(clean)
    if not (first_channels or last_channels) or (class_wise and shape[0] != _num_classes(clean)):
        raise EclipseError(
            f"{path} holds values of shape {shape}; expected one perturbation of {width}x{height} for each of the "
            f"{len(clean)} rows of {clean.spec} or for each of its {_num_classes(clean) or 'labelled'} classes: "
            "(N, C, H, W) or (N, H, W, C)"
        )
    if not class_wise:
        _check_ordered(clean, str(path))
    values = load()
    _check_numbers(path, values)
    return Perturbation(path, values if first_channels else values.transpose(0, 3, 1, 2), class_wise)


def _open(path: Path) -> tuple[tuple[int, ...], Callable[[], NDArray[Any]]]:
    """The shape of the array in a file, to be looked at before the array is loaded, and how to load it."""
    if path.suffix.lower() == ".npz":
        headers = array_headers(path)
        name = _chosen(path, list(headers))
        return headers[name].shape, lambda: load_array(path, name)
    if path.suffix.lower() in _TENSORS:
        tensor = _tensor(path)
        return tuple(tensor.shape), lambda: np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
    with reading(path, "an array of numbers as numpy.save writes it", "save it again"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape, lambda: np.asarray(array)


def _tensor(path: Path) -> Tensor:
    try:
        # weights_only: such a file is a pickle, and this one may come from anywhere.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise EclipseError(
            f"{path} is not a tensor that can be read safely: it holds code, or is no PyTorch file; expected one "
            "tensor, as torch.save writes it"
        ) from error
    if isinstance(loaded, dict):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        loaded = tensors[_chosen(path, list(tensors))]
    if not isinstance(loaded, Tensor) or loaded.layout != torch.strided or loaded.is_meta or loaded.is_quantized:
        raise EclipseError(f"{path} holds something else than a plain tensor; expected one, as torch.save writes it")
    return loaded.detach()


def _chosen(path: Path, names: list[str]) -> str:
    """The array that is meant: the only one, or the one that is called so."""
    fitting = [name for name in names if name in _NAMES] or names
    if len(fitting) != 1:
        raise EclipseError(
            f"{path} holds the arrays {', '.join(names) or 'none'}; expected one perturbation, called "
            f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
        )
    return fitting[0]


def _check_numbers(path: Path, values: NDArray[Any]) -> None:
    if values.dtype == np.uint8:
        raise EclipseError(
            f"{path} holds uint8, which has no sign; expected a signed perturbation: if these are images, save them as "
            "'images' in an .npz"
        )
    if values.dtype.kind not in "iuf":
        raise EclipseError(f"{path} holds {values.dtype}; expected numbers")
    if not np.isfinite(values).all():
        raise EclipseError(f"{path} holds values that are infinite or no numbers; expected finite ones")


def _num_classes(clean: Source) -> int:
    """The number of classes: named ones, or else the largest label plus one; 0 without labels."""
    if clean.class_names is not None:
        return len(clean.class_names)
    return (
        max((row.label + 1 for row in clean.outline() if row.label is not None), default=0) if clean.has_labels else 0
    )
