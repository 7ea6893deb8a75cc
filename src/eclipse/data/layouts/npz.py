"""NumPy archives: ``images`` and ``labels`` in one .npz, read and written row by row."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from eclipse.data.picture import MAX_BYTES, MAX_PIXELS, decode, planes
from eclipse.data.store import Replacements, Row
from eclipse.errors import EclipseError, is_utf8, reading

_CHANNELS = (1, 3, 4)
_NAMES = "class_names"  # the array that holds the class names, one string each
_LABELS = ("labels", "label", "fine_labels", "fine_label", "targets", "target", "y")  # the array with the classes
_BLOCK_BYTES = 2**22
_FIELD_BYTES = 2**20  # of what a row has in another array
_MOST_TEXT = 2**24  # bytes of an array of text


@dataclass(frozen=True)
class Header:
    """What stands before the data of one array in an archive."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayStore:
    """An .npz archive with uint8 ``images`` (see `Store`); ids are row numbers.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels; where both could be, the last is meant.
    """

    layout = "npz"
    is_folder = False

    def __init__(self, root: Path) -> None:
        self.root = root
        with _archive(root) as archive:
            self._headers = _headers(archive, root)
            self._images = self._image_header()
            self.unusable_labels = self._problem_of_labels()
            self.unlabelled = (
                self.unusable_labels or f"{root} has no array 'labels'; expected one whole number an image"
            )
            self._label_array = None if self.unusable_labels else self._find_labels()
            self.has_labels = self._label_array is not None
            self._labels = _load(archive, self._label_array, root, MAX_BYTES) if self._label_array else None
            self.class_names = self._load_names(archive) if _NAMES in self._headers else None

    def _image_header(self) -> Header:
        header = self._headers.get("images")
        if header is None:
            names = ", ".join(self._headers) or "none"
            raise EclipseError(f"{self.root} has no array 'images'; expected one among its arrays: {names}")
        shape = header.shape
        known = len(shape) == 3 or (len(shape) == 4 and (shape[3] in _CHANNELS or shape[1] in _CHANNELS))
        if header.dtype != np.uint8 or not known or 0 in shape[1:]:
            raise EclipseError(
                f"'images' in {self.root} is {header.dtype} of shape {shape}; expected uint8 (N, H, W), "
                "(N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels"
            )
        height, width = (shape[1:3] if len(shape) == 3 or shape[3] in _CHANNELS else shape[2:4])[:2]
        if height * width > MAX_PIXELS:
            raise EclipseError(
                f"'images' in {self.root} are {width}x{height} pixels large, as decompression bombs are; expected at "
                f"most {MAX_PIXELS:,} pixels each: cut them into pieces"
            )
        return header

    def _find_labels(self) -> str | None:
        """The array with the classes: ``labels``, or another usual name for one integer an image."""
        names = (name for name in _LABELS[1:] if name in self._headers)
        shapes = ((name, self._headers[name]) for name in names)
        fitting = (name for name, header in shapes if header.shape == (len(self),) and header.dtype.kind in "iu")
        return _LABELS[0] if _LABELS[0] in self._headers else next(fitting, None)

    def _problem_of_labels(self) -> str:
        header = self._headers.get("labels")
        if header is None or (header.shape == (len(self),) and header.dtype.kind in "iu"):
            return ""
        what = f"'labels' in {self.root} is {header.dtype} of shape {header.shape}; expected integers, ({len(self)},)"
        if header.shape[:1] != (len(self),):
            raise EclipseError(what)
        return what  # one-hot or float ones are copied where nobody needs them

    def _load_names(self, archive: zipfile.ZipFile) -> tuple[str, ...] | None:
        header = self._headers[_NAMES]
        is_list_of_text = len(header.shape) == 1 and header.dtype.kind == "U"
        names = tuple(map(str, _load(archive, _NAMES, self.root, _MOST_TEXT))) if is_list_of_text else None
        if not all(map(is_utf8, names or ())):
            raise EclipseError(f"{_NAMES!r} in {self.root} holds text that is not UTF-8; expected names that are")
        return names

    def __len__(self) -> int:
        return self._images.shape[0]

    @property
    def _channels_last(self) -> bool:
        return len(self._images.shape) == 4 and self._images.shape[3] in _CHANNELS

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream the images as raw pixels."""
        with _archive(self.root) as archive, archive.open("images.npy") as file:
            header = _read_header(file, "images", self.root)
            for row, data in _rows_between(file, header, start, stop, self.root):
                pixels = np.frombuffer(data, np.uint8).reshape(header.shape[1:])
                label = None if self._labels is None else int(self._labels[row])
                yield Row(
                    str(row),
                    f"{self.root.name} row {row}",
                    label,
                    pixels.transpose(2, 0, 1) if self._channels_last else pixels,
                )

    def outline(self, start: int, stop: int) -> Iterator[Row]:
        """The rows without their data."""
        for row in range(start, stop):
            label = None if self._labels is None else int(self._labels[row])
            yield Row(str(row), f"{self.root.name} row {row}", label, b"")

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """The entries of the arrays with one for each image."""
        with _archive(self.root) as archive, ExitStack() as stack:
            columns = {}
            for name in self._fields:
                file = stack.enter_context(archive.open(f"{name}.npy"))
                columns[name] = _values(file, _read_header(file, name, self.root), name, start, stop, self.root)
            for _ in range(start, stop):
                yield {name: next(values) for name, values in columns.items()}

    @property
    def _fields(self) -> list[str]:
        """The arrays with numbers or text for each image."""
        return [
            name
            for name, header in self._headers.items()
            if name not in ("images", self._label_array, _NAMES)
            and header.shape[:1] == (len(self),)
            and header.dtype.kind in "biufU"
            and 0 < header.row_bytes <= _FIELD_BYTES
        ]

    def left_behind(self) -> Iterator[str]:
        """The arrays of other shapes and types."""
        fields = [f"array {name!r}" for name in self._fields]
        return (array for array in self.beside() if array not in fields)

    def beside(self) -> Iterator[str]:
        """The other arrays."""
        return (f"array {name!r}" for name in self._headers if name not in ("images", self._label_array, _NAMES))

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name the archive."""
        yield self.root.name, self.root

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the same arrays; of those with one entry per image, the entries of the rows that stay."""
        kept = sum(new.keeps(str(row)) for row in span)
        with _archive(self.root) as archive, zipfile.ZipFile(target, "w") as out:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as old, open_member(out, info.filename, info.compress_type) as file:
                    header = _read_header(old, name, self.root)
                    if name == "images":
                        write_header(file, (kept, *header.shape[1:]), header.dtype)
                        self._write_images(file, header, span, new)
                    elif name != _NAMES and header.shape[:1] == (len(self),):
                        write_header(file, (kept, *header.shape[1:]), header.dtype)
                        _copy_rows(old, file, header, span, new, self.root)
                    else:
                        write_header(file, header.shape, header.dtype)
                        _copy(old, file)

    def _write_images(self, file: IO[bytes], header: Header, span: range, new: Replacements) -> None:
        for row in span:
            png = new.take(str(row))
            if png is None:
                continue
            stored = planes(decode(png, f"the new image of row {row}"))
            pixels = stored.transpose(1, 2, 0) if self._channels_last else stored
            if pixels.size != header.row_bytes:
                raise EclipseError(
                    f"the new image of row {row} is {pixels.shape}; expected {header.shape[1:]} as before"
                )
            file.write(np.ascontiguousarray(pixels).data)


def open_npz(path: Path) -> ArrayStore:
    """Open an .npz archive."""
    return ArrayStore(path)


def array_headers(path: Path) -> dict[str, Header]:
    """Shape and type of each array in an archive, by name, without reading it."""
    with _archive(path) as archive:
        return _headers(archive, path)


def load_array(path: Path, name: str) -> NDArray[Any]:
    """Read one array of an archive into memory; look at the shape in its header first."""
    with _archive(path) as archive:
        return _load(archive, name, path)


def open_member(archive: zipfile.ZipFile, name: str, compression: int = zipfile.ZIP_STORED) -> IO[bytes]:
    """Start a member whose bytes depend on nothing but what is written."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = compression
    return archive.open(info, "w", force_zip64=True)


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    """Write what stands before the data of an array in C order."""
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive, and word what is wrong with it."""
    with reading(path, "an .npz archive"), zipfile.ZipFile(path) as archive:
        yield archive


def _headers(archive: zipfile.ZipFile, path: Path) -> dict[str, Header]:
    headers = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            raise EclipseError(
                f"{path} holds {info.filename!r}; expected arrays alone, as numpy.savez writes them: "
                "unpack a zip archive of images, and give the folder"
            )
        name = info.filename.removesuffix(".npy")
        with reading(f"the array {name!r} in {path}", "one of a plain .npz"), archive.open(info) as file:
            headers[name] = _read_header(file, name, path)
            if info.file_size < headers[name].size:
                raise EclipseError(
                    f"the array {name!r} in {path} has {info.file_size:,} bytes, and its header asks for "
                    f"{headers[name].size:,}; expected a complete archive: write it again"
                )
    return headers


def _load(archive: zipfile.ZipFile, name: str, path: Path, most: float = math.inf) -> NDArray[Any]:
    with archive.open(name + ".npy") as file:
        header = _read_header(file, name, path)
        if header.size > most:
            raise EclipseError(f"the array {name!r} in {path} has {header.size:,} bytes; expected at most {most:,.0f}")
        data = file.read(header.size)
        if len(data) < header.size:
            raise EclipseError(f"{path} ends within its array {name!r}; expected a complete archive")
        return np.frombuffer(data, header.dtype).reshape(header.shape)


def _read_header(file: IO[bytes], name: str, path: Path) -> Header:
    """Read up to the data; arrays of Python objects, which are pickles, are refused."""
    readers: dict[tuple[int, int], Callable[[IO[bytes]], Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with reading(f"the header of the array {name!r} in {path}", "one that numpy writes"):
        shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
        if any(isinstance(length, bool) or length < 0 for length in shape):
            raise ValueError(f"it has the shape {shape}")
    if dtype.hasobject:
        raise EclipseError(f"the array {name!r} in {path} holds Python objects; expected numbers or strings")
    if fortran and len(shape) > 1:
        raise EclipseError(
            f"the array {name!r} in {path} is in Fortran order; expected C order: save a contiguous copy"
        )
    return Header(shape, dtype)


def _rows_between(file: IO[bytes], header: Header, start: int, stop: int, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (row, bytes) of an array whose header was just read."""
    size = header.row_bytes
    file.seek(start * size, 1)
    for row in range(start, stop):
        data = file.read(size)
        if len(data) < size:
            raise EclipseError(f"{path} ends within row {row} of {header.shape[0]}; expected a complete archive")
        yield row, data


def _values(file: IO[bytes], header: Header, name: str, start: int, stop: int, path: Path) -> Iterator[Any]:
    """The entries of an array as Python has them."""
    for row, data in _rows_between(file, header, start, stop, path):
        value = np.frombuffer(data, header.dtype).reshape(header.shape[1:]).tolist()
        if header.dtype.kind == "U" and not is_utf8(str(value)):
            raise EclipseError(f"row {row} of {name!r} in {path} is text that is not UTF-8; expected text that is")
        yield value


def _copy_rows(old: IO[bytes], file: IO[bytes], header: Header, span: range, new: Replacements, path: Path) -> None:
    for row, data in _rows_between(old, header, span.start, span.stop, path):
        if new.keeps(str(row)):
            file.write(data)


def _copy(old: IO[bytes], file: IO[bytes]) -> None:
    while block := old.read(_BLOCK_BYTES):
        file.write(block)
