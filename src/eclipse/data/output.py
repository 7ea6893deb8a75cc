"""Put the new images of a data set together to a complete data set."""

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import filterfalse, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eclipse.data.convert import carried, check_rows, finder, to_folder, to_npz, to_parquet, to_webdataset
from eclipse.data.encoding import PNG, Encoding
from eclipse.data.layouts.folder import FolderStore
from eclipse.data.layouts.references import is_metadata
from eclipse.data.picture import encode_png, form_of
from eclipse.data.store import Replacements, Row, Source
from eclipse.errors import EclipseError, unknown

if TYPE_CHECKING:
    from eclipse.data.layouts.table import TableStore

FORMATS: dict[str, Callable[[Source, Path, Replacements], None]] = {
    "folder": to_folder,
    "parquet": to_parquet,
    "npz": to_npz,
    "webdataset": to_webdataset,
}
_TABLES = ("parquet", "arrow", "hub")
_FOLDER_FORMATS = ("folder", "webdataset")
_OF_ONE_SIZE = ("npz", "cifar", "eclipse-pickle")  # layouts whose new images must have the size of the old ones
_ENDINGS = {".parquet": "parquet", ".npz": "npz", ".tar": "webdataset"}
_MOST_NAMES, _SHOWN_NAMES = 100, 8  # in the manifest, and in a note
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def named_format(source: Source, out: Path, format: str | None) -> str | None:
    """The format that is asked for or, where none is, told by the name of the output; None for that of the input."""
    told = _ENDINGS.get(out.suffix.lower())
    return told if format is None and told != source.layout else format


def check_output(source: Source, out: Path, format: str | None = None, encoding: Encoding = PNG) -> None:
    """Refuse, before any work, an output that could not be written.

    Args:
        source: the data set that goes in.
        out: the path that the result will have.
        format: one of `FORMATS`, or None for the layout of the input (Parquet for the Hub).
        encoding: of the new images.

    Raises:
        EclipseError: for an unknown format, content or image files that it cannot hold, names that would
            collide, a path that is the input, lies in it or contains it, that exists already, or that cannot be made.
    """
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if source.is_resized and _keeps_layout(source, format) and source.layout in _OF_ONE_SIZE:
        raise EclipseError(
            f"{source.spec} is of the layout {source.layout}, whose copy cannot hold images of another size; expected "
            "--format folder, parquet or webdataset where images are resized"
        )
    _check_place(source, out)
    is_folder = _makes_folder(source, format)
    if out.is_symlink() or (out.exists() and not (is_folder and out.is_dir() and not any(out.iterdir()))):
        raise EclipseError(f"{out} exists already; expected a new path: choose another one or remove it")
    _check_ending(source, out, format)
    if encoding != PNG:
        _check_encoding(source, format, encoding)
    _check_content(source, out, format, encoding.suffix)


def describe_rest(source: Source, format: str | None, suffix: str = PNG.suffix) -> tuple[Mapping[str, Any], list[str]]:
    """Tell what becomes of all that is neither image nor label nor column: entries of the manifest, and notes."""
    told, notes = dict[str, Any](), list[str]()
    left, shown = _listed(_left_behind(source, format))
    if left["count"]:
        told["left behind"] = left
        notes.append(f"the format {format or 'parquet'} has no place for {shown}: left out")
    along, shown = _listed(_copied_along(source, format))
    if along["count"]:
        told["copied along"] = along
        notes.append(
            f"copied as they are, and not purified: {shown}; what they tell of names, sizes, offsets or check sums of "
            "the images is that of the old ones"
        )
    is_folder = isinstance(source.store, FolderStore) and _keeps_layout(source, format)
    outdated, shown = _listed(cast(FolderStore, source.store).outdated(suffix) if is_folder else iter(()))
    if outdated["count"]:
        told["outdated"] = outdated
        notes.append(
            f"images are named with endings that become {suffix} in {shown}: write these anew for the new images"
        )
    return told, notes


def _copied_along(source: Source, format: str | None) -> Iterator[str]:
    if _keeps_layout(source, format):
        rest = source.store.beside()
        yield from filterfalse(is_metadata, rest) if source.layout == "folder" else rest
    if source.layout in _TABLES and format in (None, "parquet", source.layout):
        yield from cast("TableStore", source.store).other_images


def _left_behind(source: Source, format: str | None) -> Iterator[str]:
    if _keeps_layout(source, format):
        return
    written = format or "parquet"
    yield from getattr(source.store, "left_behind", source.store.beside)()
    if source.layout not in _TABLES:
        kept = carried(source, written)
        yield from (f"field {name!r}" for name in source.fields if name not in kept)
    elif written != "parquet":
        yield from cast("TableStore", source.store).own_metadata
    if format == "npz" and source.layout in ("folder", "webdataset"):
        yield "names of the images"


def _listed(names: Iterator[str]) -> tuple[Mapping[str, Any], str]:
    """The number of names and the first of them, for the manifest and in words."""
    first = list(islice(names, _MOST_NAMES))
    count = len(first) + sum(1 for _ in names)
    shown = ", ".join(name if name.isprintable() else repr(name) for name in first[:_SHOWN_NAMES])
    return {"count": count, "names": first}, shown + (
        f" and {count - _SHOWN_NAMES:,} more" if count > _SHOWN_NAMES else ""
    )


def check_apart(out: Path, other: Source, what: str) -> None:
    """Refuse an output inside another data set that is read."""
    if other.root is not None and other.root.resolve() in out.resolve().parents:
        raise EclipseError(f"the output {out} is inside the {what} {other.root}; expected a path apart from them")


def write_output(
    source: Source,
    pictures: Iterator[tuple[str, bytes]],
    place: Path,
    format: str | None,
    skipped: frozenset[str],
    suffix: str = PNG.suffix,
) -> str:
    """Write a whole data set with new images.

    Args:
        source: the data set that went in; labels, other columns and other files are read from it again.
        pictures: (id, encoded image) of every row that is not skipped, in the order of the source.
        place: where there is nothing yet.
        format: as for `check_output`.
        skipped: the ids of the rows to leave out.
        suffix: that of the encoding of the pictures.

    Returns:
        SHA-256 over the ids and the encoded images, in order.

    Raises:
        EclipseError: an image does not fit the format, the source is not as it was, or the disk is full.
    """
    if len(skipped) >= len(source):
        raise EclipseError(f"all {len(source)} images of {source.spec} were left out; expected at least one good one")
    digest = hashlib.sha256()
    new = Replacements(_digested(pictures, digest), skipped, suffix)
    with _one_sentence():
        source.fingerprint()  # to be compared, where nobody has asked for it before
        if _keeps_layout(source, format):
            if source.store.is_folder:
                place.mkdir()
            source.store.write(place, source.span, new)
        else:
            FORMATS[format or "parquet"](source, place, new)
        new.finish()
        source.check_unchanged()
    return digest.hexdigest()


def fingerprint_of_output(source: Source, output: Source, skipped: Collection[str]) -> str:
    """What ``write_output`` gave, of an output that was opened again; all of it is read.

    Args:
        source: the data set that went in.
        output: what it became.
        skipped: the names of the rows that were left out.

    Raises:
        EclipseError: the output has no image for a row.
    """
    digest = hashlib.sha256()
    find, news = finder(output, source), output.rows()
    for old in source.rows():
        if old.name in skipped:
            continue
        new = next(news, None) if find is None else find(old.id)
        digest.update(old.id.encode("utf-8", "surrogatepass"))
        digest.update(b"" if new is None else _encoded(old, new))
    return digest.hexdigest()


def _encoded(old: Row, new: Row) -> bytes:
    """The image of a new row as it was handed over: plain pixels were a PNG, of one plane where the old row is gray."""
    if isinstance(new.data, bytes):
        return new.data
    picture = new.picture()
    return encode_png(picture if picture.gray else replace(picture, gray=old.picture().gray))


def _digested(pictures: Iterator[tuple[str, bytes]], digest: "hashlib._Hash") -> Iterator[tuple[str, bytes]]:
    for id, image in pictures:
        digest.update(id.encode("utf-8", "surrogatepass"))
        digest.update(image)
        yield id, image


def _keeps_layout(source: Source, format: str | None) -> bool:
    return source.layout != "hub" and format in (None, source.layout)


def _written(source: Source, format: str | None) -> str:
    """The layout of the output."""
    return source.layout if _keeps_layout(source, format) else format or "parquet"


def _makes_folder(source: Source, format: str | None) -> bool:
    return source.store.is_folder if _keeps_layout(source, format) else format in _FOLDER_FORMATS


def _check_place(source: Source, out: Path) -> None:
    """The output must not be the input, in it, or around it."""
    place = Path(os.path.realpath(out))  # which a link to itself does not stop
    roots = [source.root] if source.root is not None else [path for _, path in source.store.files()]
    for root in (path.resolve() for path in roots):
        relation = "equal to" if place == root else "inside" if root in place.parents else "a folder around"
        if place == root or root in place.parents or place in root.parents:
            raise EclipseError(f"the output {out} is {relation} the input {root}; expected a path apart from it")
    existing = next(parent for parent in place.parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise EclipseError(
            f"{out} cannot be made, since {existing} is not a folder that can be written; choose another path"
        )


def _check_ending(source: Source, out: Path, format: str | None) -> None:
    """A name such as ``purified.parquet`` tells what the user expects to get."""
    expected = _ENDINGS.get(out.suffix.lower())
    written = _written(source, format)
    if expected is not None and expected != written:
        raise EclipseError(
            f"{out} is named like {expected}, but would be written as {written}; expected a fitting name: "
            f"add --format {expected} or choose another name"
        )


def _check_encoding(source: Source, format: str | None, encoding: Encoding) -> None:
    if (written := _written(source, format)) in _OF_ONE_SIZE:
        raise EclipseError(
            f"--image-format {encoding}, and the layout {written} holds plain pixels; expected --format folder, "
            "parquet or webdataset with it, or leave it out"
        )
    if problem := _unencodable(source, encoding):
        raise EclipseError(problem)


@lru_cache(maxsize=8)  # a job checks its output several times
def _unencodable(source: Source, encoding: Encoding) -> str:
    """What is wrong with the first image that a format cannot hold, by its header; nothing where all fit."""
    for row in source.rows():
        form = None if row.absent else form_of(row.data)
        if form is not None:  # others are told, or left out, when they are read
            try:
                encoding.check(row.name, *row.size_after(*form[0]), form[1])
            except EclipseError as error:
                return str(error)
    return ""


def _check_content(source: Source, out: Path, format: str | None, suffix: str) -> None:
    if isinstance(source.store, FolderStore) and format in (None, "folder", "webdataset"):
        source.store.check_names(out, suffix)
        if format != "webdataset":
            source.store.check_metadata()
    written = _written(source, format)
    if source.layout in _TABLES:
        from eclipse.data.layouts.table import TableStore

        assert isinstance(source.store, TableStore)
        if written in _TABLES:  # with all columns
            return source.store.check_columns()
        source.store.check_others(written, source.span)
    if not _keeps_layout(source, format):
        check_rows(source, written, suffix)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Word the errors of the disk."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_SPACE:
            raise EclipseError(
                f"no space to write the output ({reason}); free some and run the same command again"
            ) from error
        place = f"{error.filename}: " if error.filename else ""
        raise EclipseError(
            f"cannot put the output together: {place}{reason}; mend that and run the same command again"
        ) from error
