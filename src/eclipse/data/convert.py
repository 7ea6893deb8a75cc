"""Write a data set in another layout than its own: images, order and labels go along, and the fields of the rows.

Fields are columns of a table, captions and JSON in shards, metadata of a folder, arrays of an archive with an entry for
each image. Other files, members and arrays stay behind.
"""

import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from eclipse.data.encoding import SUFFIXES
from eclipse.data.layouts.folder import FolderStore, is_image, without_ending
from eclipse.data.layouts.npz import open_member, write_header
from eclipse.data.layouts.tree import folded, place
from eclipse.data.layouts.webdataset import NAMES_FILE, add_member
from eclipse.data.picture import Pixels, decode, form_of
from eclipse.data.store import Replacements, Row, Source, folder_name
from eclipse.errors import EclipseError, is_utf8

_SHARD_ROWS = 1000
_MOST_NAME_BYTES = 255  # of one name, on every common file system
_BATCH_ROWS = 64

Renewed = tuple[Row, bytes, Mapping[str, Any]]


def carried(source: Source, format: str) -> Mapping[str, Any]:
    """The fields of the rows that a format can hold, and their Arrow types."""
    from eclipse.data.fields import is_taken
    from eclipse.data.layouts.table import TableStore

    if isinstance(source.store, TableStore):  # what has no place was refused
        return {name: source.store.schema.field(name).type for name in source.store.other_columns}
    free = {name: field for name, field in source.fields.items() if not is_taken(format, name, source.has_labels)}
    return {name: field.kind for name, field in free.items() if field.fits(format, name)}


def renewed(source: Source, new: Replacements, fields: Collection[str]) -> Iterator[Renewed]:
    """Yield each row that stays, its new image, and what it tells in these fields."""
    others = source.store.others(source.span.start, source.span.stop)
    for row, other in zip(source.labelled(), others, strict=True):
        image = new.take(row.id)
        if image is not None:
            yield row, image, {name: value for name, value in other.items() if name in fields}


def class_folders(source: Source) -> tuple[str, ...] | None:
    """Names of the class folders: the class names with what cannot stand in a path replaced by ``_``."""
    if source.class_names is None:
        return None
    folders = tuple(map(folder_name, source.class_names))
    if len(set(map(folded, folders))) < len(folders):
        raise EclipseError(
            f"two of the classes {', '.join(source.class_names)} would share a folder; expected names that differ in "
            "letters or digits: rename one or choose --format parquet"
        )
    return folders


def check_rows(source: Source, format: str, suffix: str) -> None:
    """Refuse, before any work, labels and names that a format cannot hold.

    Args:
        source: the data set.
        format: that it is converted to.
        suffix: of the new images.

    Raises:
        EclipseError: names the first row.
    """
    if problem := getattr(source.store, "unusable_labels", ""):
        raise EclipseError(f"{problem}: labels would get lost in the format {format}; keep the layout, or mend them")
    _check_names(source.class_names or (), format)
    if format == "npz" and (problem := _unfit_for_an_array(source)):
        raise EclipseError(problem)
    folders = class_folders(source) if format == "folder" else None
    taken: dict[str, str] = {}
    without: Row | None = None
    labelled: Row | None = None
    for row in source.outline():
        without, labelled = (without or row, labelled) if row.label is None else (without, labelled or row)
        if without and ((format == "npz" and source.has_labels) or (format == "folder" and labelled)):
            raise EclipseError(
                f"{without.name} has no label; the format {format} needs one for each image or none at all: choose "
                "--format parquet, or leave such images out"
            )
        if format in ("folder", "webdataset") and not row.id.isdecimal():
            _check_key(row, format, _class_of(row, folders) or "", suffix, taken)


@lru_cache(maxsize=8)  # a job checks its output several times
def _unfit_for_an_array(source: Source) -> str:
    """What is wrong with the first image that does not fit the others; nothing where all do, by their headers."""
    first: tuple[int, int] | None = None
    for row in source.rows():
        form = None if row.absent else form_of(row.data)
        if form is None:  # which is told, or left out, when it is read
            continue
        size = row.size_after(*form[0])
        first = first or size
        if problem := _misfit(row, size == first, form[1]):
            return problem
    return ""


def _misfit(row: Row, is_as_large: bool, has_alpha: bool) -> str:
    if is_as_large and not has_alpha:
        return ""
    problem = "has an alpha channel" if has_alpha else "is not as large as the first image"
    return (
        f"{row.name} {problem}, and the format npz is for RGB images of one size; expected another format: "
        "choose --format folder, parquet or webdataset"
    )


def _check_names(names: Sequence[str], format: str) -> None:
    """Refuse class names that do not survive a format."""
    for name in names:
        broken = {
            "folder": not is_utf8(name) or len(name.encode()) > _MOST_NAME_BYTES,
            "webdataset": not is_utf8(name) or "\n" in name or "\r" in name,
            "npz": name.endswith("\0"),
        }
        if broken.get(format):
            raise EclipseError(
                f"the class {name!r} has a name that the format {format} cannot hold; expected letters and digits in "
                "one line: rename it or choose --format parquet"
            )


def _check_key(row: Row, format: str, folder: str, suffix: str, taken: dict[str, str]) -> None:
    """Refuse two rows that would become one file or one sample, and a file with too long a name."""
    key = shard_key(row.id) if format == "webdataset" else f"{folder}/{folded(_stem(row.id))}"
    if format == "folder" and len((_stem(row.id) + suffix).encode()) > _MOST_NAME_BYTES:
        raise EclipseError(f"{row.name} has too long a path for one file name; expected less than 255 bytes: rename it")
    if key in taken:
        raise EclipseError(
            f"{row.name} and {taken[key]} would share the name {key!r}; expected one of each name: rename one of them"
        )
    taken[key] = row.name


def to_folder(source: Source, target: Path, new: Replacements) -> None:
    """Write ``CLASS/ID.png``, say, or ``ID.png`` without labels; what else a row tells goes to metadata.jsonl."""
    target.mkdir()
    folders = class_folders(source)
    with ExitStack() as stack:
        lines = None
        for row, image, other in renewed(source, new, carried(source, "folder")):
            name = _stem(row.id) + new.suffix
            label = _class_of(row, folders)
            path = name if label is None else f"{label}/{name}"
            with open(place(target, path), "xb") as file:
                file.write(image)
            if other:
                lines = lines or stack.enter_context(open(target / "metadata.jsonl", "wb"))
                known = {"file_name": path} if label is None else {"file_name": path, "label": label}
                lines.write(_json({**other, **known}) + b"\n")


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode(errors="backslashreplace")  # half a surrogate is an escape


def rows_of_folder(folder: Source, source: Source) -> Iterator[Row] | None:
    """The rows of a folder that ``to_folder`` made of a source, in the order of the source; None where it did not."""
    if not isinstance(folder.store, FolderStore) or isinstance(source.store, FolderStore):
        return None
    paths = _by_name(folder)
    names = [_stem(row.id) for row in source.outline()]
    if len(paths) < len(folder) or paths.keys() != set(names):
        return None
    return (folder.store.read_one(paths[name]) for name in names)


def finder(folder: Source, source: Source) -> Callable[[str], Row] | None:
    """What finds the row of a folder that was made of a source by the id of the source's; None for other layouts.

    It raises an `EclipseError` where there is none.
    """
    store = folder.store
    if not isinstance(store, FolderStore):
        return None
    paths = None if isinstance(source.store, FolderStore) else _by_name(folder)

    def find(id: str) -> Row:
        path = _renewed(store.root, id) if paths is None else paths.get(_stem(id), "")
        if not path:
            raise EclipseError(f"{folder.spec} has no image for {id} of {source.spec}; expected it as it was made")
        return store.read_one(path)

    return find


def _renewed(folder: Path, id: str) -> str:
    """The id of what became of an image in a folder of the same layout, of any format; nothing where there is none."""
    paths = (without_ending(id) + suffix for suffix in SUFFIXES)
    return next((path for path in paths if (folder / path).is_file()), "")


def _by_name(folder: Source) -> dict[str, str]:
    """The ids of a folder by what ``_stem`` gave of those that they were made of."""
    return {without_ending(row.id.rpartition("/")[2]): row.id for row in folder.outline()}


def _stem(row: str) -> str:
    return row.replace("/", "_")


def _class_of(row: Row, folders: tuple[str, ...] | None) -> str | None:
    if row.label is None or folders is None:
        return None if row.label is None else str(row.label)
    return folders[row.label]


def to_webdataset(source: Source, target: Path, new: Replacements) -> None:
    """Write shards of 1000 rows with ``KEY.png``, say, ``KEY.cls`` and, for what else it tells, ``KEY.json``."""
    target.mkdir()
    if source.class_names is not None:
        (target / NAMES_FILE).write_text("".join(f"{name}\n" for name in source.class_names), encoding="utf-8")
    rows = renewed(source, new, carried(source, "webdataset"))
    for number, first in enumerate(rows):
        with tarfile.open(target / f"shard-{number:06d}.tar", "w") as tar:
            keys: set[str] = set()
            for row, image, other in chain([first], islice(rows, _SHARD_ROWS - 1)):
                key = shard_key(row.id)
                if key in keys:
                    raise EclipseError(
                        f"{row.name} and another image would share the key {key!r}; expected one of each name"
                    )
                keys.add(key)
                _add_sample(tar, key, row, image, other, new.suffix)


def shard_key(row: str) -> str:
    """The key of a row in a shard: its id without ending, and without dots, at which a key would end."""
    return (os.path.splitext(row)[0] if is_image(row) else row).replace(".", "_")


def _add_sample(tar: tarfile.TarFile, key: str, row: Row, image: bytes, other: Mapping[str, Any], suffix: str) -> None:
    add_member(tar, key + suffix, image)
    if row.label is not None:
        add_member(tar, f"{key}.cls", str(row.label).encode())
    if other:
        add_member(tar, f"{key}.json", _json(other))


def to_parquet(source: Source, target: Path, new: Replacements) -> None:
    """Write one Parquet file: all columns of a table, or else ``image``, ``label`` and the fields of the rows."""
    from eclipse.data.layouts.columns import image_batch, image_schema
    from eclipse.data.layouts.table import TableStore
    from eclipse.data.layouts.table_files import PARQUET, write_batches

    if isinstance(source.store, TableStore):
        source.store.write_table(PARQUET, target, source.span, new)
        return
    others = carried(source, "parquet")
    schema = image_schema(source.class_names, source.has_labels, others)
    rows = (
        (image, without_ending(row.id) + new.suffix, {**other, "label": row.label} if source.has_labels else other)
        for row, image, other in renewed(source, new, others)
    )
    batches = iter(lambda: list(islice(rows, _BATCH_ROWS)), [])
    write_batches(PARQUET, target, schema, "image", (image_batch(schema, batch) for batch in batches))


def to_npz(source: Source, target: Path, new: Replacements) -> None:
    """Write ``images`` (N, H, W, 3), ``labels``, ``class_names`` and the fields of the rows as arrays."""
    columns: dict[str, list[Any]] = {}
    with zipfile.ZipFile(target, "w") as archive:
        with open_member(archive, "images.npy") as file:
            for number, pixels in enumerate(_of_one_size(source, new, columns)):
                if number == 0:
                    write_header(file, (len(source) - len(new.skipped), *pixels.shape), pixels.dtype)
                file.write(np.ascontiguousarray(pixels).data)
        if source.class_names is not None:
            columns["class_names"] = list(source.class_names)
        for name, values in columns.items():
            _add_array(archive, name, values)


def _of_one_size(source: Source, new: Replacements, columns: dict[str, list[Any]]) -> Iterator[Pixels]:
    """Yield the pixels (H, W, 3) of each row, and gather its label and fields."""
    shape: tuple[int, ...] = ()
    for row, image, other in renewed(source, new, carried(source, "npz")):
        picture = decode(image, row.name)
        pixels = picture.rgb.transpose(1, 2, 0)
        shape = shape or pixels.shape
        if problem := _misfit(row, pixels.shape == shape, picture.alpha is not None):
            raise EclipseError(problem)
        yield pixels
        labels = {"labels": row.label} if source.has_labels else {}
        for name, value in {**other, **labels}.items():
            columns.setdefault(name, []).append(value)


def _add_array(archive: zipfile.ZipFile, name: str, values: list[Any]) -> None:
    array = np.array(values)
    if array.dtype.hasobject:
        raise EclipseError(f"the column {name!r} has empty cells, which an .npz cannot hold; expected --format parquet")
    with open_member(archive, f"{name}.npy") as file:
        write_header(file, array.shape, array.dtype)
        file.write(array.tobytes())
