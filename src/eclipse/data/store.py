"""The rows of a data set on disk: what a layout provides, a slice of it, and the new images that go back into it."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eclipse.data.picture import Picture, Pixels, decode, from_array, limited, limited_size, resized
from eclipse.errors import EclipseError

if TYPE_CHECKING:
    from eclipse.data.fields import Field

_MOST_LABELS = 2**63  # every form holds labels as int64


@dataclass(frozen=True, eq=False)
class Row:
    """One row, not decoded yet.

    Attributes:
        id: identity inside the whole data set, the same in every slice of it: the POSIX path relative to a folder of
            images, shard and key in WebDataset shards, the decimal row number elsewhere.
        name: for messages.
        label: index of the class; None or -1 for a row without one.
        data: the encoded image, or raw uint8 pixels (H, W) or (C, H, W).
        absent: what to tell, after the name, of an image that is not there.
        side: of the square that ``picture`` makes of the image; None for its own proportions.
        longest: the longer side that it may have at most, in these; None for its own size.
    """

    id: str
    name: str
    label: int | None
    data: bytes | Pixels
    absent: str = ""
    side: int | None = None
    longest: int | None = None

    def picture(self) -> Picture:
        """Decode the image; an `EclipseError` names it when that fails."""
        if self.absent:
            raise EclipseError(f"{self.name} {self.absent}")
        found = decode(self.data, self.name) if isinstance(self.data, bytes) else from_array(self.data, self.name)
        if self.longest is not None:
            found = limited(found, self.longest)
        return found if self.side is None else resized(found, self.side)

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the picture of an image of that height and width."""
        if self.side is not None:
            return self.side, self.side
        return (height, width) if self.longest is None else limited_size((height, width), self.longest)


class Replacements:
    """The new images of a data set, handed out in the order of its rows.

    Attributes:
        skipped: the ids of the rows to leave out.
        suffix: what names of the new images end with, by their format: ``.png``, ``.webp`` or ``.jpg``.
    """

    def __init__(self, pictures: Iterator[tuple[str, bytes]], skipped: frozenset[str], suffix: str) -> None:
        self.skipped, self.suffix = skipped, suffix
        self._pictures = pictures

    def keeps(self, row: str) -> bool:
        """Whether the row with this id stays in the data set."""
        return row not in self.skipped

    def take(self, row: str) -> bytes | None:
        """Return the encoded image of the next row, or None when the row with this id is left out."""
        if not self.keeps(row):
            return None
        got, image = next(self._pictures, (None, b""))
        if got != row:
            raise EclipseError(
                f"the new image for row {row} is missing (the next one is for {got}); expected the data set not to "
                "change while it is worked on: start again with another --out"
            )
        return image

    def finish(self) -> None:
        """Raise if images are left over."""
        left = next(self._pictures, None)
        if left is not None:
            raise EclipseError(
                f"the data set has no row for the new image {left[0]}; expected it not to change while it is worked "
                "on: start again with another --out"
            )


class Store(Protocol):
    """A whole data set on disk in one layout; `Source` is a slice of it."""

    @property
    def layout(self) -> str:
        """Name of the layout."""

    @property
    def root(self) -> Path | None:
        """The file or folder that is the data set; None where it is neither (the Hub, a range of shards)."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, where known."""

    @property
    def has_labels(self) -> bool:
        """Whether every row has a label."""

    @property
    def is_folder(self) -> bool:
        """Whether `write` makes a folder and not a file."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream rows start to stop (exclusive) in order, in bounded memory, without decoding images."""

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """Stream what these rows tell besides image and label: values that JSON has, by the names of columns."""

    def beside(self) -> Iterator[str]:
        """Name what is neither image nor label nor column; `write` takes it along as it is.

        What of it is in ``others`` all the same, since the layout has no columns, goes along to other layouts. A layout
        that has such has a method ``left_behind``, too, which names the rest.
        """

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name every file that the rows come from."""

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the rows of ``span`` with their new images to ``target`` in this layout, all else unchanged."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set opened by `eclipse.data.source.open_source`: a layout on disk and the slice of its rows to use.

    Attributes:
        side: of the square that is made of each image when it is decoded; None for its own proportions.
        longest: the longer side that each may have at most, in these; None for images as they are.
    """

    spec: str
    store: Store
    span: range
    side: int | None = None
    longest: int | None = None

    @property
    def layout(self) -> str:
        """Name of the layout."""
        return self.store.layout

    @property
    def root(self) -> Path | None:
        """The file or folder on disk; None where it is neither (the Hub, a range of shards)."""
        return self.store.root

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each label, where known; the same for every slice."""
        return self.store.class_names

    @property
    def has_labels(self) -> bool:
        """Whether every row has a label."""
        return self.store.has_labels

    def __len__(self) -> int:
        return len(self.span)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Stream the rows from row ``start`` of this slice on, in order and in bounded memory."""
        rows = self.store.read(self.span.start + start, self.span.stop)
        return (replace(row, side=self.side, longest=self.longest) for row in rows) if self.is_resized else rows

    @property
    def is_resized(self) -> bool:
        """Whether images get another size when they are decoded."""
        return self.side is not None or self.longest is not None

    @property
    def unlabelled(self) -> str:
        """Why the rows have no labels, where they have none, and what to do; a layout may tell by the same name."""
        return getattr(self.store, "unlabelled", "") or f"{self.spec} has none; expected one class per image"

    @property
    def notes(self) -> list[str]:
        """What its user should know, of a layout that tells it by the same name."""
        return list(getattr(self.store, "notes", ()))

    def labelled(self, start: int = 0) -> Iterator[Row]:
        """Stream the rows from row ``start`` on, where their labels count.

        Raises:
            EclipseError: names the first row whose label is no class.
        """
        return map(self._with_class, self.rows(start))

    def outline(self) -> Iterator[Row]:
        """As ``labelled``, without the data where a layout has a method of this name, which spares reading them."""
        read = getattr(self.store, "outline", self.store.read)
        return map(self._with_class, read(self.span.start, self.span.stop))

    def _with_class(self, row: Row) -> Row:
        """The row with None for -1, which means no class to ``datasets``, torch and scikit-learn alike."""
        if row.label is None or row.label == -1:
            return row if row.label is None else replace(row, label=None)
        named = None if self.class_names is None else len(self.class_names)
        if not 0 <= row.label < (_MOST_LABELS if named is None else named):
            classes = "a whole number" if named is None else f"one of the {named} classes with a name"
            raise EclipseError(
                f"{row.name} is of class {row.label}; expected {classes} from 0 on, or -1 for an image without a class"
            )
        return row

    @cached_property
    def fields(self) -> Mapping[str, "Field"]:
        """What the rows tell beside image and label; all of them are gone through."""
        from eclipse.data.fields import scan

        return scan(self.store.others(self.span.start, self.span.stop), self.spec)

    def fingerprint(self) -> str:
        """SHA-256 over layout, slice, sizes, and names, sizes and times of the files, when it was first asked for."""
        return self._first_fingerprint

    def check_unchanged(self) -> None:
        """Refuse a data set whose fingerprint is no longer the first one: rows read now may not be those read then."""
        if self._fingerprint_now() != self.fingerprint():
            raise EclipseError(
                f"the files of {self.spec} were changed while they were worked on; expected the same ones to the end: "
                "run the same command again, with the old files or as they are now"
            )

    @cached_property
    def _first_fingerprint(self) -> str:
        return self._fingerprint_now()

    def _fingerprint_now(self) -> str:
        title = f"{self.layout} {self.span.start}:{self.span.stop}" + ("" if self.side is None else f" {self.side}")
        title += "" if self.longest is None else f" at most {self.longest}"
        return fingerprint_files(title, self.store.files())


def comparable_classes(
    source: Source, row: Row, other_source: Source, other_row: Row
) -> tuple[str | int | None, str | int | None]:
    """The classes of two rows: by name where both sets name them, else by number.

    The folders of a set whose classes have no names are named by their numbers.
    """
    named = source.class_names is not None and other_source.class_names is not None
    return _class_of(source, row, named), _class_of(other_source, other_row, named)


def _class_of(source: Source, row: Row, named: bool) -> str | int | None:
    names = source.class_names
    if names is None or row.label is None or not 0 <= row.label < len(names):
        return row.label
    if named:
        return comparable_names(names)[row.label]
    return int(names[row.label]) if source.layout == "folder" and all(map(_is_number, names)) else row.label


@lru_cache(maxsize=8)
def comparable_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Class names as they can be compared between layouts: in one normal form, and as a folder has them."""
    plain = tuple(unicodedata.normalize("NFC", folder_name(name)) for name in names)
    return plain if len(set(plain)) == len(names) else names


def folder_name(name: str) -> str:
    """A class name with what cannot stand in a path replaced by ``_``."""
    return re.sub(r'[\x00-\x1f/\\:*?"<>|]|^\.', "_", name) or "_"


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Names in the order of their labels: numbers by their values (9 before 10), others by their letters."""
    known = sorted(names, key=lambda name: (unicodedata.normalize("NFC", name), name))
    return tuple(sorted(known, key=int) if all(map(_is_number, known)) else known)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 19


def fingerprint_files(title: str, files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over a title, and names, sizes and times of files."""
    digest = hashlib.sha256(title.encode())
    for name, path in files:
        status = path.stat()
        digest.update(f"\n{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
