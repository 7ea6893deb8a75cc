"""Tables with an image column: Parquet files and folders, Arrow folders saved by ``datasets``, and the Hub.

Rows are read and written in batches with pyarrow alone, so that images are never decoded by another library, schema
and metadata stay as they are, and memory is bounded by a row group.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from eclipse.data.fields import is_taken
from eclipse.data.layouts.columns import (
    Columns,
    check_selectable,
    encoded_images,
    find_image_column,
    find_label_column,
    fitted,
    is_json,
    is_scalar,
    is_text,
    joined_schema,
    may_hold_images,
    named_classes,
    plain_schema,
    why_unlabelled,
    with_bytes,
)
from eclipse.data.layouts.table_files import ARROW, PARQUET, Codec, readable, write_batches
from eclipse.data.layouts.tree import carry, refuse_split_files, top_files, walk
from eclipse.data.picture import MAX_BYTES
from eclipse.data.store import Replacements, Row, sorted_classes
from eclipse.errors import EclipseError, reading, require
from eclipse.runs.files import read_json

_NO_BYTES = (
    "holds the path {} and no bytes; expected the image itself: embed the images in the table, or give the folder that "
    "they lie in"
)


class TableStore:
    """Table files of one schema, one after the other (see `Store`); ids are row numbers."""

    def __init__(
        self,
        layout: str,
        codec: Codec,
        paths: Sequence[Path],
        columns: Columns,
        root: Path | None = None,
        downloads: Path | None = None,
    ) -> None:
        self.layout = layout
        self.root = root
        self.is_folder = root is not None and root.is_dir()
        self._downloads = downloads
        self._codec = codec
        self._paths = tuple(paths)
        with readable(self._paths[0]):
            self.schema = plain_schema(codec.schema(self._paths[0]))
        self._counts = tuple(self._count(path) for path in self._paths)
        self.image_column = find_image_column(self.schema, columns.image, self._paths[0])
        self._label_column = find_label_column(self.schema, columns.label, self._paths[0])
        self.has_labels = self._label_column is not None
        self.unlabelled = "" if self.has_labels else why_unlabelled(self.schema, root or self._paths[0])

    def _count(self, path: Path) -> int:
        with readable(path):
            self.schema = joined_schema(self.schema, self._codec.schema(path), self._paths[0], path)
            return self._codec.count(path)

    def __len__(self) -> int:
        return sum(self._counts)

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Names from the metadata of ``datasets``, or the sorted distinct strings of the label column."""
        if self._label_column is None:
            return None
        if is_text(self.schema.field(self._label_column).type):
            return sorted_classes(self._distinct_labels(self._label_column))
        with reading(f"the metadata of {self._paths[0]}", "those that datasets writes"):
            return named_classes(self.schema.metadata, self._label_column)

    def _distinct_labels(self, column: str) -> set[str]:
        found: set[str] = set()
        for _, _, batch in self._batches(0, len(self), [column]):
            found.update(value for value in batch.column(column).to_pylist() if value is not None)
        return found

    @cached_property
    def _label_of_text(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.class_names or ())}

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[Path, int, range]]:
        """Yield each file with rows in start to stop, the number of its first row, and those rows of it."""
        first = 0
        for path, count in zip(self._paths, self._counts, strict=True):
            inside = range(max(start - first, 0), min(stop - first, count))
            if inside:
                yield path, first, inside
            first += count

    def _batches(self, start: int, stop: int, columns: Sequence[str] | None) -> Iterator[tuple[Path, int, Any]]:
        """Yield (file, row number in it, batch)."""
        for path, _, inside in self._overlaps(start, stop):
            with readable(path):
                row = inside.start
                for batch in self._codec.batches(path, inside.start, columns):
                    part = batch.slice(0, inside.stop - row)
                    yield path, row, fitted(part, self.schema)
                    row += len(part)
                    if row == inside.stop:
                        break
                else:
                    raise ValueError(f"it ends after row {row} of {inside.stop}")

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream the rows; an image that is missing has no bytes."""
        columns = [self.image_column] + ([self._label_column] if self._label_column else [])
        number = start
        for path, first, batch in self._batches(start, stop, columns):
            images = encoded_images(batch.column(self.image_column))
            for i, ((data, place), label) in enumerate(zip(images, self._labels_of(batch), strict=True)):
                found = data or self._downloaded(place)
                absent = "" if found or not place else _NO_BYTES.format(repr(place[:200]))
                yield Row(str(number + i), f"{path.name} row {first + i}", label, found, absent)
            number += len(batch)

    def outline(self, start: int, stop: int) -> Iterator[Row]:
        """The rows without their data."""
        if self._label_column is None:
            yield from (Row(str(number), f"row {number}", None, b"") for number in range(start, stop))
            return
        number = start
        for path, first, batch in self._batches(start, stop, [self._label_column]):
            for i, label in enumerate(self._labels_of(batch)):
                yield Row(str(number + i), f"{path.name} row {first + i}", label, b"")
            number += len(batch)

    def _downloaded(self, place: str | None) -> bytes:
        """Read an image of which the table has the path alone: only from below the folder of downloads."""
        if not place or "\0" in place or self._downloads is None:
            return b""
        path = Path(place).resolve()
        if not path.is_relative_to(self._downloads.resolve()) or not path.is_file():
            return b""
        with open(path, "rb") as file:
            return file.read(min(path.stat().st_size, MAX_BYTES + 1))

    def _labels_of(self, batch: Any) -> list[int | None]:
        if self._label_column is None:
            return [None] * len(batch)
        values = batch.column(self._label_column).to_pylist()
        if is_text(self.schema.field(self._label_column).type):
            return [None if value is None else self._label_of_text[value] for value in values]
        return list(values)

    @property
    def other_columns(self) -> list[str]:
        """The columns that hold neither image nor label."""
        return [name for name in self.schema.names if name not in (self.image_column, self._label_column)]

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """Stream the other columns as Python values."""
        if not self.other_columns:
            yield from repeat(dict[str, Any](), stop - start)
            return
        batches = self._batches(start, stop, self.other_columns)
        for path, _, batch in batches:
            with readable(path):  # dates, say, that Python does not have
                rows = batch.to_pylist()
            yield from rows

    def check_columns(self) -> None:
        """Refuse a column that could not be written to a table again."""
        check_selectable(self.schema, self._paths[0])

    def check_others(self, format: str, span: range) -> None:
        """Refuse the other columns that have no place in JSON lines, or as arrays in an .npz archive."""
        for name in self.other_columns:
            kind = self.schema.field(name).type
            if is_taken(format, name, self.has_labels) or not (is_scalar(kind) if format == "npz" else is_json(kind)):
                raise EclipseError(
                    f"the column {name!r} ({kind}) has no place in the format {format}; expected parquet: "
                    "choose --format parquet or remove the column"
                )
        if format != "npz" or not self.other_columns:
            return
        for _, _, batch in self._batches(span.start, span.stop, self.other_columns):
            if empty := [name for name in self.other_columns if batch.column(name).null_count]:
                raise EclipseError(
                    f"the column {empty[0]!r} has empty cells, which an .npz cannot hold; expected --format parquet"
                )

    def beside(self) -> Iterator[str]:
        """The other files of a folder."""
        names = {path.name for path in self._paths}
        return (
            path for path in (walk(self.root) if self.root is not None and self.is_folder else ()) if path not in names
        )

    @property
    def other_images(self) -> list[str]:
        """The columns that may hold images, too, and are not worked on."""
        return [f"column {name!r}" for name in self.other_columns if may_hold_images(self.schema.field(name).type)]

    @property
    def own_metadata(self) -> list[str]:
        """What the schema tells beside the types of columns."""
        keys = (key.decode(errors="replace") for key in self.schema.metadata or {})
        return [f"schema metadata {key!r}" for key in keys if key not in ("huggingface", "ARROW:schema")]

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name the table files, with the columns in use: another choice is another data set."""
        return ((f"{path.name} {self.image_column} {self._label_column}", path) for path in self._paths)

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write one file, or a folder of the same files; those outside the span are left out."""
        if not self.is_folder or self.root is None:
            self.write_table(PARQUET, target, span, new)
            return
        for path, first, inside in self._overlaps(span.start, span.stop):
            rows = range(first + inside.start, first + inside.stop)
            self.write_table(self._codec, target / path.name, rows, new)
        names = {path.name for path in self._paths}
        carry(self.root, target, lambda path: path not in names)

    def write_table(self, codec: Codec, target: Path, span: range, new: Replacements) -> None:
        """Write the rows of the span with all their columns to one file."""
        write_batches(codec, target, self.schema, self.image_column, self._replaced(span, new))

    def _replaced(self, span: range, new: Replacements) -> Iterator[Any]:
        number = span.start
        position = self.schema.get_field_index(self.image_column)
        for _, _, batch in self._batches(span.start, span.stop, None):
            found = [new.take(str(number + i)) for i in range(len(batch))]
            number += len(batch)
            kept = batch.filter(pa.array([image is not None for image in found]))
            images = with_bytes(kept.column(position), [image for image in found if image is not None], new.suffix)
            columns = [images if i == position else column for i, column in enumerate(kept.columns)]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)


class SavedDataset(TableStore):
    """A folder written by ``Dataset.save_to_disk``: Arrow streams and the state that lists them."""

    def __init__(self, root: Path, columns: Columns) -> None:
        self._folder = root
        self._state = _read_state(root)
        paths = [root / entry["filename"] for entry in self._state["_data_files"]]
        super().__init__("arrow", ARROW, paths, columns, root)

    def beside(self) -> Iterator[str]:
        """The other files of the folder that ``datasets`` did not write."""
        return (name for name in super().beside() if name not in ("state.json", "dataset_info.json"))

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name the Arrow files and the state."""
        yield from super().files()
        yield "state.json", self._folder / "state.json"

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the same folder, with a state that names its files and a fingerprint of its own.

        ``datasets`` caches the results of map() by fingerprint: under the old one it would serve old images.
        """
        super().write(target, span, new)
        digest = hashlib.sha256(json.dumps(self._state, sort_keys=True).encode())
        present = []
        for entry in self._state["_data_files"]:
            if (target / entry["filename"]).exists():
                present.append(entry)
                digest.update(_content_digest(target / entry["filename"]))
        state = {**self._state, "_data_files": present, "_fingerprint": digest.hexdigest()[:16]}
        (target / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True))


def open_parquet(path: Path, columns: Columns) -> TableStore:
    """Open a Parquet file, or a folder whose sorted Parquet files are one data set."""
    paths = [path]
    if path.is_dir():
        paths = top_files(path, ".parquet")
        refuse_split_files(path, paths)
    return TableStore("parquet", PARQUET, paths, columns, path)


def open_hub(name: str, columns: Columns) -> TableStore:
    """Open ``NAME`` or ``NAME@split`` from the Hugging Face Hub or its local cache."""
    datasets = require("datasets", "hub")
    repository, _, split = name.partition("@")
    try:
        found = datasets.load_dataset(repository, split=split or None)
    except Exception as error:  # network, permission, name and format errors of several libraries
        reason = str(error).strip().partition("\n")[0]
        raise EclipseError(f"cannot load hf:{name} ({reason}); expected hf:NAME or hf:NAME@split of the Hub") from error
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found and len(found) > 1:
            raise EclipseError(
                f"hf:{name} has the splits {', '.join(found)}; expected one: write hf:{name}@{next(iter(found))}"
            )
        found = found["train" if "train" in found else next(iter(found))]
    paths = [Path(entry["filename"]) for entry in found.cache_files]
    if not paths:
        raise EclipseError(f"hf:{name} has no rows; expected at least one image")
    return TableStore("hub", ARROW, paths, columns, downloads=Path(datasets.config.HF_CACHE_HOME))


def _read_state(root: Path) -> dict[str, Any]:
    try:
        state = read_json(root / "state.json")
        names = [entry["filename"] for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise EclipseError(
            f"{root / 'state.json'} is damaged; expected a folder saved by datasets: save it again"
        ) from error
    present = {path.name for path in top_files(root)}
    for name in names:
        if not isinstance(name, str) or name not in present:
            raise EclipseError(f"{root / 'state.json'} names the file {name!r}; expected a file in the same folder")
    if not names:
        raise EclipseError(f"{root} has no rows; expected at least one image")
    return dict(state)


def _content_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()
