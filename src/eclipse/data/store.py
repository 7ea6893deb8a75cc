"""The rows of a data set on disk: what a layout provides, a slice of it, and the new images that go back into it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from eclipse.data.picture import Picture, Pixels, decode, from_array
from eclipse.errors import EclipseError


@dataclass(frozen=True, eq=False)
class Row:
    """One row, not decoded yet.

    Attributes:
        id: identity inside the whole data set, the same in every slice of it: the POSIX path relative to a folder of
            images, shard and key in WebDataset shards, the decimal row number elsewhere.
        name: for messages.
        label: index of the class, or None.
        data: the encoded image, or raw uint8 pixels (H, W) or (C, H, W).
    """

    id: str
    name: str
    label: int | None
    data: bytes | Pixels

    def picture(self) -> Picture:
        """Decode the image; an `EclipseError` names it when that fails."""
        return decode(self.data, self.name) if isinstance(self.data, bytes) else from_array(self.data, self.name)


class Replacements:
    """The new images of a data set, handed out in the order of its rows."""

    def __init__(self, pictures: Iterator[tuple[str, bytes]], skipped: frozenset[str]) -> None:
        self.skipped = skipped
        self._pictures = pictures

    def keeps(self, row: str) -> bool:
        """Whether the row with this id stays in the data set."""
        return row not in self.skipped

    def take(self, row: str) -> bytes | None:
        """Return the PNG of the next row, or None when the row with this id is left out."""
        if not self.keeps(row):
            return None
        got, png = next(self._pictures, (None, b""))
        if got != row:
            raise EclipseError(
                f"the new image for row {row} is missing (the next one is for {got}); expected the data set not to "
                "change while it is worked on: start again with another --out"
            )
        return png

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
        """Stream what these rows hold besides image and label, as columns of a table."""

    def beside(self) -> Iterator[str]:
        """Name what is neither image nor label nor other column; `write` takes it along as it is."""

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name every file that the rows come from."""

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the rows of ``span`` with their new images to ``target`` in this layout, all else unchanged."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set opened by `eclipse.data.source.open_source`: a layout on disk and the slice of its rows to use."""

    spec: str
    store: Store
    span: range

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
        return self.store.read(self.span.start + start, self.span.stop)

    def fingerprint(self) -> str:
        """SHA-256 over layout, slice, and names, sizes and times of the files, when it was first asked for: cheap."""
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
        return fingerprint_files(f"{self.layout} {self.span.start}:{self.span.stop}", self.store.files())


def comparable_classes(
    source: Source, row: Row, other_source: Source, other_row: Row
) -> tuple[str | int | None, str | int | None]:
    """The classes of two rows: by name where both sets name them, else by number."""
    named = source.class_names is not None and other_source.class_names is not None
    return _class_of(source, row, named), _class_of(other_source, other_row, named)


def _class_of(source: Source, row: Row, named: bool) -> str | int | None:
    names = source.class_names or ()
    return names[row.label] if named and row.label is not None and 0 <= row.label < len(names) else row.label


def fingerprint_files(title: str, files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over a title, and names, sizes and times of files."""
    digest = hashlib.sha256(title.encode())
    for name, path in files:
        status = path.stat()
        digest.update(f"\n{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
