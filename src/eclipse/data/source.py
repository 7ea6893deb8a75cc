"""Open any data set by one argument: a path or ``hf:NAME``, with a slice at its end if wanted."""

import os
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from eclipse.data.imageset import ImageSet
from eclipse.data.layouts.tree import walk
from eclipse.data.picture import Pixels, size_in_words
from eclipse.data.store import Source, Store
from eclipse.errors import EclipseError, is_utf8
from eclipse.registry import Registry
from eclipse.runs.files import check_local

LAYOUTS: Registry[Callable[..., Store]] = Registry(
    "layout",
    "eclipse.layouts",
    {
        "folder": "eclipse.data.layouts.folder:FolderStore",
        "parquet": "eclipse.data.layouts.table:open_parquet",
        "arrow": "eclipse.data.layouts.table:SavedDataset",
        "hub": "eclipse.data.layouts.table:open_hub",
        "webdataset": "eclipse.data.layouts.webdataset:open_webdataset",
        "npz": "eclipse.data.layouts.npz:ArrayStore",
        "cifar": "eclipse.data.layouts.cifar:open_cifar",
        "pickle": "eclipse.data.layouts.cifar:open_pickle",
    },
)
"""From a layout to the function that opens it; one of others has ``recognizes(path)``, too, to be asked before it."""

BY_RESIZE = "name it, such as --resize 64"  # remedy of a command with this option, for ``load_imageset``
MAX_SIDE = 8192  # of a square with as many pixels as an image may have

_WITH_COLUMNS = ("parquet", "arrow", "hub")

# How a file is recognized: by its ending, else by its first bytes.
_ENDINGS = {".parquet": "parquet", ".npz": "npz", ".tar": "webdataset", ".pkl": "pickle", ".pickle": "pickle"}
_MAGIC = {b"PAR1": "parquet", b"PK\x03\x04": "npz", b"\x80": "pickle"}

# What is packed in a way that no layout reads.
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
_PACKED_ENDINGS = (".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")

_FORMS = (
    "a folder of images, Parquet (file or folder), an Arrow folder saved by datasets, WebDataset (.tar), .npz, "
    "CIFAR python batches, the ECLIPSE pickle, or hf:NAME"
)


def open_source(
    spec: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    side: int | None = None,
    longest: int | None = None,
) -> Source:
    """Open a data set in any of the known layouts.

    Args:
        spec: a path or ``hf:NAME`` or ``hf:NAME@split``, each with a slice such as ``[48000:50000]`` if wanted.
        image_column: the column with the images, for tables; found by its type when not given.
        label_column: the column with the classes, for tables; ``label``, ``labels`` or ``fine_label`` when not given.
        side: make each image a square of so many pixels when it is decoded; see ``picture.resized``.
        longest: reduce each image whose longer side has more pixels when it is decoded; see ``picture.limited``.

    Raises:
        EclipseError: for no such path, an unknown layout, an empty set, a slice out of range, or a side of 0.
    """
    for wanted_side in (side, longest):
        if wanted_side is not None and not 1 <= wanted_side <= MAX_SIDE:
            raise EclipseError(f"images resized to {wanted_side} pixels; expected 1 to {MAX_SIDE}")
    text = os.fspath(spec)
    place, bounds = split_slice(text)
    store = _open_store(place, image_column, label_column)
    if len(store) == 0:
        packed = _packed_in(Path(place))
        wanted = _FORMS if packed is None else f"unpack {packed}, which is of no form that is read"
        raise EclipseError(f"{place} has no images; expected at least one: {wanted}")
    return Source(text, store, _resolve(text, bounds, len(store)), side, longest)


def asked_columns(image_column: str | None, label_column: str | None) -> dict[str, str]:
    """The columns that a user asked for, for a manifest."""
    asked = {"image column": image_column, "label column": label_column}
    return {name: column for name, column in asked.items() if column is not None}


def _packed_in(folder: Path) -> str | None:
    """The first packed file of a folder."""
    return next((p for p in walk(folder) if p.lower().endswith(_PACKED_ENDINGS)), None) if folder.is_dir() else None


def split_slice(text: str) -> tuple[str, tuple[int | None, int | None]]:
    """Split ``train.parquet[10:20]`` into the path and (10, 20); a path that exists as it is has no slice."""
    if not text.endswith("]") or os.path.exists(text):
        return text, (None, None)
    found = re.fullmatch(r"(.+)\[(-?\d*):(-?\d*)\]", text, re.DOTALL)
    if found is None or "-" in found.groups()[1:]:
        raise EclipseError(
            f"the slice at the end of {text!r} cannot be read; expected [start:stop], for example [:10000]"
        )
    place, start, stop = found.groups()
    return place, (int(start) if start else None, int(stop) if stop else None)


def _resolve(text: str, bounds: tuple[int | None, int | None], length: int) -> range:
    """Turn a slice as in Python into the rows that it means."""
    out_of_range = any(bound is not None and not -length <= bound <= length for bound in bounds)
    span = range(length)[slice(*bounds)]
    if out_of_range or not span:
        raise EclipseError(
            f"the slice of {text!r} is {'out of range' if out_of_range else 'empty'}; expected rows of this data set, "
            f"which has {length:,}"
        )
    return span


def _open_store(place: str, image_column: str | None, label_column: str | None) -> Store:
    layout = layout_of(place)
    target: Any = place.removeprefix("hf:") if layout == "hub" else Path(place)
    if layout in _WITH_COLUMNS:
        from eclipse.data.layouts.columns import Columns

        return LAYOUTS.load(layout)(target, Columns(image_column, label_column))
    if image_column or label_column:
        raise EclipseError(
            f"{place} is no table, so it has no column {image_column or label_column!r}; leave the option out"
        )
    opener = LAYOUTS.load(layout)
    with LAYOUTS.blaming(layout):
        return opener(target)


def layout_of(place: str) -> str:
    """Recognize the layout of a data set: a name in ``LAYOUTS``.

    Others are asked where none of ours has a mark of its own, and before what is left: a folder of images.
    """
    if not is_utf8(place):
        raise EclipseError(f"the path {place!a} is not UTF-8; expected one that is: rename it")
    if place.startswith("hf:"):
        return "hub"
    path = Path(place)
    if place and path.is_dir():
        return _layout_of_folder(path)
    if path.is_file():
        return _layout_of_file(path)
    check_local(place)
    if re.search(r"\{\d+\.\.\d+\}", place):
        return "webdataset"
    raise EclipseError(f"no such path: {place!r}; expected {_FORMS}")


def _foreign(path: Path) -> str | None:
    """The layout of others that recognizes a path."""
    found = list[str]()
    for name in LAYOUTS.foreign():
        with suppress(EclipseError), LAYOUTS.blaming(name):  # a broken package is no reason to refuse this data set
            if cast(Any, LAYOUTS.load(name)).recognizes(path):
                found.append(name)
    if len(found) > 1:
        packages = " and ".join(f"{name!r} of {LAYOUTS.entry(name).package}" for name in found)
        raise EclipseError(f"{path} is recognized by several layouts, {packages}; uninstall all of these but one")
    return found[0] if found else None


def _layout_of_folder(path: Path) -> str:
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir())) or "none"
        raise EclipseError(f"{path} holds several splits ({splits}); expected one of them: add its name to the path")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "arrow"
    if (path / "data_batch_1").is_file() or ((path / "train").is_file() and (path / "meta").is_file()):
        return "cifar"
    tables = [name for name in ("parquet", "tar") if any(path.glob(f"[!.]*.{name}"))]
    if not tables:
        return _foreign(path) or "folder"
    if len(tables) > 1 or _has_images(path):
        raise EclipseError(
            f"{path} holds {' and '.join(f'.{name} files' for name in tables)} beside other data; expected one kind: "
            "name the files themselves, or move them out"
        )
    return {"parquet": "parquet", "tar": "webdataset"}[tables[0]]


def _has_images(path: Path) -> bool:
    from eclipse.data.layouts.folder import images_in

    return any(True for _ in images_in(path))


def _layout_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(_PACKED):
        raise EclipseError(f"{path} is packed; expected {_FORMS}: unpack it, and give what comes out")
    if path.suffix.lower() in _ENDINGS:
        return _ENDINGS[path.suffix.lower()]
    for magic, layout in _MAGIC.items():
        if start.startswith(magic):
            return layout
    if foreign := _foreign(path):
        return foreign
    raise EclipseError(f"{path} is a file of no known layout; expected {_FORMS}")


def load_imageset(source: Source, purpose: str, remedy: str = "") -> ImageSet:
    """Load all rows into memory as RGB, without alpha; of a source with a ``side``, only the squares.

    Raises:
        EclipseError: names the first image of another size than the first one; `purpose` says what needs one size, and
            `remedy` how to ask for it.
    """
    _check_forms(source)
    images: Pixels | None = None
    ids: list[str] = []
    labels: list[int | None] = []
    source.fingerprint()
    for row in source.labelled():
        pixels = row.picture().rgb
        if images is None:
            images, first = _room_for(source, pixels), row.name
        elif pixels.shape != images.shape[1:]:
            raise EclipseError(
                f"{row.name} is {size_in_words(pixels)} and {first} is {size_in_words(images[0])}; "
                f"expected one size for {purpose}{f': {remedy}' if remedy else ''}"
            )
        images[len(ids)] = pixels
        ids.append(row.id)
        labels.append(row.label)
    source.check_unchanged()
    assert images is not None  # no source is empty
    return ImageSet(images, tuple(ids), _all_labels(source, labels), source.class_names, source.unlabelled)


def _room_for(source: Source, first: Pixels) -> Pixels:
    """Memory for all images of a size."""
    try:
        return np.empty((len(source), *first.shape), np.uint8)
    except MemoryError as error:
        raise EclipseError(
            f"{len(source):,} images of {size_in_words(first)} take {len(source) * first.size / 2**30:,.0f} GiB of "
            f"memory, more than there is; expected fewer or smaller ones: name a slice of {source.spec}, or resize them"
        ) from error


def _check_forms(source: Source) -> None:
    """Refuse two classes that people cannot tell apart, since one name is in two Unicode normal forms."""
    seen: dict[str, str] = {}
    for name in source.class_names or ():
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise EclipseError(
                f"{source.spec} has the class {name} in two Unicode normal forms, {other!a} and {name!a}; "
                "expected one: rename one of them, or put their images together"
            )


def load_pictures(source: Source) -> list[Pixels]:
    """Load all rows into memory as RGB arrays (3, H, W) of any sizes."""
    source.fingerprint()
    pictures = [row.picture().rgb for row in source.rows()]
    source.check_unchanged()
    return pictures


def _all_labels(source: Source, labels: list[int | None]) -> Any:
    if not source.has_labels:
        return None
    missing = next((i for i, label in enumerate(labels) if label is None), None)
    if missing is not None:
        raise EclipseError(
            f"row {source.span[missing]} of {source.spec} has no label; expected one for each image or none: leave it "
            "out, or give it a class"
        )
    return np.array(labels, np.int64)
