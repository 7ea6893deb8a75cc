"""The CIFAR python batches and the ECLIPSE authors' pickle: 32x32 RGB in pickles, read without running them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from eclipse.data.layouts.pickles import (
    APPEND,
    EMPTY_DICT,
    EMPTY_LIST,
    PAIR,
    SET_ITEM,
    STOP,
    ByteArray,
    Kind,
    String,
    read_pickle,
    unreadable,
    write_array_end,
    write_array_start,
    write_start,
    write_string,
    write_value,
)
from eclipse.data.layouts.tree import carry, top_files, walk
from eclipse.data.picture import Pixels, decode, planes
from eclipse.data.store import Replacements, Row
from eclipse.errors import EclipseError, reading

_BYTES = 3072  # of one image
_BLOCK = 256  # images read at once
_LABELS = ("labels", "fine_labels")
_NAME_FILES = (("batches.meta", "label_names"), ("meta", "fine_label_names"))


@dataclass(frozen=True, eq=False)
class Batch:
    """One CIFAR batch: a dict of entries in the order of the file, whose pixels are still in it."""

    path: Path
    entries: Mapping[str, tuple[String, Any]]

    def __len__(self) -> int:
        return int(self.entries["data"][1].shape[0])

    @property
    def labels(self) -> list[int]:
        """The class of each image."""
        key = next(key for key in _LABELS if key in self.entries)
        labels: list[int] = self.entries[key][1]
        return labels

    @property
    def is_old(self) -> bool:
        """Whether Python 2 wrote it."""
        return all(key.kind == "old" for key, _ in self.entries.values())

    def has_entries(self, name: str) -> bool:
        """Whether there is a list of this name with one entry for each image."""
        value = self.entries[name][1] if name in self.entries else None
        return isinstance(value, list) and len(value) == len(self)

    def images(self, start: int, stop: int) -> Iterator[Pixels]:
        """Stream the images (3, 32, 32)."""
        array: ByteArray = self.entries["data"][1]
        assert array.data is not None
        with reading(self.path, "a CIFAR batch"), open(self.path, "rb") as file:
            if array.is_fortran or array.data.kind == "latin":
                whole = np.frombuffer(array.data.load(file), np.uint8)
                rows = whole.reshape(array.shape, order="F" if array.is_fortran else "C")
                yield from (np.ascontiguousarray(row).reshape(3, 32, 32) for row in rows[start:stop])
                return
            file.seek(array.data.offset + start * _BYTES)
            for first in range(start, stop, _BLOCK):
                count = min(_BLOCK, stop - first)
                yield from _read_rows(file, count, self.path).reshape(count, 3, 32, 32)

    def write(self, target: Path, inside: range, new: Replacements, first: int) -> None:
        """Write the batch with other images; lists with one entry per image lose those that are left out."""
        kept = [row for row in inside if new.keeps(str(first + row))]
        with open(target, "wb") as file:
            write_start(file, 2 if self.is_old else 4)
            file.write(EMPTY_DICT)
            for name, (key, value) in self.entries.items():
                write_value(file, key)
                if name == "data":
                    self._write_images(file, inside, new, first, len(kept))
                elif self.has_entries(name):
                    write_value(file, [value[row] for row in kept])
                else:
                    write_value(file, value)
                file.write(SET_ITEM)
            file.write(STOP)

    def _write_images(self, file: IO[bytes], inside: range, new: Replacements, first: int, count: int) -> None:
        array: ByteArray = self.entries["data"][1]
        assert array.data is not None
        write_array_start(file, array.data.kind, (count, _BYTES))
        for row in inside:
            png = new.take(str(first + row))
            if png is not None:
                file.write(_raw(png, str(first + row)).tobytes())
        write_array_end(file)


class CifarStore:
    """CIFAR batches, one after the other (see `Store`); ids are row numbers."""

    layout = "cifar"
    has_labels = True

    def __init__(self, batches: list[Batch], root: Path) -> None:
        self.root = root
        self.is_folder = root.is_dir()
        self._batches = batches
        self.class_names = self._read_names()

    def _read_names(self) -> tuple[str, ...] | None:
        """Names of the classes from the file beside the batches, where there is one that fits."""
        folder = self.root if self.is_folder else self.root.parent
        for name, key in _NAME_FILES:
            if (folder / name).is_file():
                entries = _entries(read_pickle(folder / name), folder / name)
                with reading(folder / name, f"a list of {key}"):
                    names = tuple(item.text for item in entries[key][1]) if key in entries else ()
                if self.is_folder or all(label < len(names) for batch in self._batches for label in batch.labels):
                    return names
        return None

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[Batch, int, range]]:
        first = 0
        for batch in self._batches:
            inside = range(max(start - first, 0), min(stop - first, len(batch)))
            if inside:
                yield batch, first, inside
            first += len(batch)

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream the images as raw pixels."""
        for batch, first, inside in self._overlaps(start, stop):
            labels = batch.labels
            for row, image in zip(inside, batch.images(inside.start, inside.stop), strict=True):
                yield Row(str(first + row), f"{batch.path.name} row {row}", labels[row], image)

    def outline(self, start: int, stop: int) -> Iterator[Row]:
        """The rows without their data."""
        for batch, first, inside in self._overlaps(start, stop):
            for row in inside:
                yield Row(str(first + row), f"{batch.path.name} row {row}", batch.labels[row], b"")

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """What the batches have in further lists with an entry for each image, such as the names of files."""
        fields = self._fields
        for batch, _, inside in self._overlaps(start, stop):
            for row in inside:
                yield {name: _plain(batch.entries[name][1][row]) for name in fields}

    @property
    def _fields(self) -> list[str]:
        """The names of these lists, which are in all batches."""
        return [name for name in self._entries if all(batch.has_entries(name) for batch in self._batches)]

    @property
    def _entries(self) -> list[str]:
        names = {name: None for batch in self._batches for name in batch.entries}
        return [name for name in names if name not in ("data", *_LABELS)]

    def left_behind(self) -> Iterator[str]:
        """The other entries, which are not of each image, and the other files of the folder."""
        fields = [f"entry {name!r}" for name in self._fields]
        return (name for name in self.beside() if name not in fields)

    def beside(self) -> Iterator[str]:
        """The other entries of the batches, and the other files of the folder."""
        yield from (f"entry {name!r}" for name in self._entries)
        if self.is_folder:
            known = {batch.path.name for batch in self._batches} | {name for name, _ in _NAME_FILES}
            yield from (path for path in walk(self.root) if path not in known)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name the batches, and the file with the names of their classes."""
        yield from ((batch.path.name, batch.path) for batch in self._batches)
        folder = self.root if self.is_folder else self.root.parent
        yield from ((name, folder / name) for name, _ in _NAME_FILES if (folder / name).is_file())

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write one batch, or the folder with its other files as they are; batches outside the span are left out."""
        for batch, first, inside in self._overlaps(span.start, span.stop):
            batch.write(target / batch.path.name if self.is_folder else target, inside, new, first)
        if self.is_folder:
            names = {batch.path.name for batch in self._batches}
            carry(self.root, target, lambda path: path not in names)


class EclipseStore:
    """The ECLIPSE authors' list of (3072 bytes in H, W, C order, label) (see `Store`); ids are row numbers."""

    layout = "eclipse-pickle"
    has_labels = True
    class_names = None
    is_folder = False

    def __init__(self, items: list[Any], root: Path) -> None:
        if not all(map(_is_item, items)):
            raise unreadable(root, "its list holds something else than (bytes, int)")
        self.root = root
        kinds = {image.kind for image, _ in items}
        if len(kinds) > 1:
            raise unreadable(root, f"its strings are of several kinds, {' and '.join(sorted(kinds))}")
        self._kind: Kind = kinds.pop() if kinds else "bytes"
        self._places = np.array([(image.offset, image.size) for image, _ in items], np.int64).reshape(-1, 2)
        self._labels = np.array([label for _, label in items], np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream the images as raw pixels."""
        with reading(self.root, "the ECLIPSE list"), open(self.root, "rb") as file:
            for row in range(start, stop):
                offset, size = map(int, self._places[row])
                data = String(self._kind, size, offset, None).load(file)
                if len(data) != _BYTES:
                    raise unreadable(self.root, f"the image of row {row} has {len(data)} bytes")
                image = np.frombuffer(data, np.uint8).reshape(32, 32, 3).transpose(2, 0, 1)
                yield Row(str(row), f"{self.root.name} row {row}", int(self._labels[row]), image)

    def outline(self, start: int, stop: int) -> Iterator[Row]:
        """The rows without their data."""
        for row in range(start, stop):
            yield Row(str(row), f"{self.root.name} row {row}", int(self._labels[row]), b"")

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """Nothing."""
        return repeat({}, stop - start)

    def beside(self) -> Iterator[str]:
        """Nothing."""
        return iter(())

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name the pickle."""
        yield self.root.name, self.root

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the same kind of list."""
        with open(target, "wb") as file:
            write_start(file, 4)
            file.write(EMPTY_LIST)
            for row in span:
                png = new.take(str(row))
                if png is not None:
                    write_string(file, "bytes", _raw(png, str(row)).transpose(1, 2, 0).tobytes())
                    write_value(file, int(self._labels[row]))
                    file.write(PAIR + APPEND)
            file.write(STOP)


def open_pickle(path: Path) -> "CifarStore | EclipseStore":
    """Open a CIFAR batch or the ECLIPSE authors' list, whichever the pickle holds."""
    value = read_pickle(path)
    if isinstance(value, list):
        return EclipseStore(value, path)
    return CifarStore([_batch(value, path)], path)


def open_cifar(folder: Path) -> CifarStore:
    """Open ``cifar-10-batches-py`` (data_batch_1 and so on) or ``cifar-100-python`` (train)."""
    batches = [path for path in top_files(folder) if path.name.startswith("data_batch_")]
    paths = sorted(batches, key=lambda path: (len(path.name), path.name)) or [folder / "train"]
    return CifarStore([_batch(read_pickle(path), path) for path in paths], folder)


def _entries(value: Any, path: Path) -> dict[str, tuple[String, Any]]:
    """Check that a pickle is a dict of plain entries: numbers, short strings, flat lists of these, arrays."""
    if not isinstance(value, dict):
        raise unreadable(path, "it holds neither a dict nor a list")
    entries = {key.text: (key, entry) for key, entry in value.items()}
    others = [entry for name, (_, entry) in entries.items() if name != "data"]
    if len(entries) < len(value) or not all(map(_is_flat, others)):
        raise unreadable(path, "its dict has entries that no CIFAR batch has")
    return entries


def _is_flat(value: Any) -> bool:
    return all(map(_is_simple, value)) if isinstance(value, list) else _is_simple(value)


def _is_simple(value: Any) -> bool:
    is_short = isinstance(value, String) and value.value is not None
    return value is None or isinstance(value, int) or is_short


def _plain(value: Any) -> Any:
    """A value of a list as JSON has it."""
    return value.text if isinstance(value, String) else value


def _batch(value: Any, path: Path) -> Batch:
    """Check that a pickle is a CIFAR batch."""
    entries = _entries(value, path)
    array = entries.get("data", (None, None))[1]
    if not isinstance(array, ByteArray) or len(array.shape) != 2 or array.shape[1] != _BYTES or array.data is None:
        raise unreadable(path, "it has no entry 'data' with 3072 bytes an image")
    if array.data.kind != "latin" and array.data.size != array.shape[0] * _BYTES:
        raise unreadable(path, "its entry 'data' is cut off")
    labels = next((entries[key][1] for key in _LABELS if key in entries), None)
    if not isinstance(labels, list) or len(labels) != array.shape[0] or not all(map(_is_label, labels)):
        raise unreadable(
            path, f"it has no entry 'labels' or 'fine_labels' with a class for each of {array.shape[0]} images"
        )
    return Batch(path, entries)


def _is_label(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # one below 0 is told where labels are needed


def _is_item(value: Any) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2
    return is_pair and isinstance(value[0], String) and value[0].kind != "text" and _is_label(value[1])


def _read_rows(file: IO[bytes], count: int, path: Path) -> NDArray[np.uint8]:
    data = file.read(count * _BYTES)
    if len(data) < count * _BYTES:
        raise unreadable(path, "it is truncated")
    return np.frombuffer(data, np.uint8)


def _raw(png: bytes, row: str) -> Pixels:
    pixels = planes(decode(png, f"the new image of row {row}"))
    if pixels.shape != (3, 32, 32):
        raise EclipseError(f"the new image of row {row} has shape {pixels.shape}; expected (3, 32, 32) as before")
    return pixels
