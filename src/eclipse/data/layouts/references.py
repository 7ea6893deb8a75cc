"""Files of a folder that name its images: metadata files are written anew with the new names, others are found."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from eclipse.data.layouts.tiny_imagenet import is_table, rewrite_table
from eclipse.errors import EclipseError
from eclipse.runs.files import parse_json

NewName = Callable[[str], str | None]
"""From a path of an image to its new one; other text stays as it is, and None stands for an image that is left out."""

_METADATA = ("metadata.jsonl", "metadata.csv")  # as the folders of ``datasets`` have them
_FIELD = re.compile(r"(?:.*_)?file_name")
_VALUES = re.compile(
    rb'("(?:[^"\\]*_)?file_names?"\s*:\s*)("(?:[^"\\]|\\.)*"|\[(?:[^\]"\\]|"(?:[^"\\]|\\.)*")*\])', re.DOTALL
)
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SEPARATORS = (re.compile(rb"[\s\"'/\\<>,;|=]+"), re.compile(rb"[\r\n\t\"'/\\<>,;|=]+"))  # names may have blanks
_LINE_BYTES = 2**24
_HEAD_BYTES = 2**20
_END: Mapping[str, Any] = {"": None}  # what no entry is
_FILES = 20  # of one folder and ending that are looked into: 100,000 captions are all alike


def is_metadata(path: str) -> bool:
    """Whether a file is one whose names are written anew."""
    return PurePosixPath(path).name in _METADATA or is_table(path)


def check_metadata(path: Path) -> None:
    """Refuse a table of metadata that cannot be read, before there is anything to write."""
    if path.suffix == ".csv":
        for _ in _csv_rows(path):
            pass


def rewrite(path: Path, target: Path, new_name: NewName) -> None:
    """Copy a file of metadata with new names, and without the lines of images that are left out; all else stays."""
    if is_table(path.name):
        return rewrite_table(path, target, new_name)
    if path.suffix == ".csv":
        return _rewrite_csv(path, target, new_name)
    with open(path, "rb") as file, open(target, "wb") as out:
        while line := file.readline(_LINE_BYTES):
            new = _renamed_line(line, new_name)
            if new is not None:
                out.write(new)


def entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """The place of each entry of a file of metadata, and what it tells by names; None for what cannot be read."""
    with open(path, "rb") as file:
        header = _header(file, path)
        place = file.tell()
        while (entry := _entry(file, header)) is not _END:
            yield place, entry
            place = file.tell()


def entry_at(path: Path, place: int) -> Mapping[str, Any]:
    """The entry at a place that ``entries`` has told."""
    with open(path, "rb") as file:
        header = _header(file, path)
        file.seek(place)
        return _entry(file, header) or {}


def _header(file: IO[bytes], path: Path) -> list[str] | None:
    """The names of the columns of a table, whose first line is read; None for JSON lines."""
    if path.suffix != ".csv":
        return None
    try:
        return [name.removeprefix("\ufeff") for name in _cells(file) or []]
    except (csv.Error, UnicodeDecodeError):
        return []


def _entry(file: IO[bytes], header: list[str] | None) -> Mapping[str, Any] | None:
    """Read on by one entry; ``_END`` at the end."""
    try:
        if header is not None:
            cells = _cells(file)
            return _END if cells is None else dict(zip(header, cells, strict=True))
        lines = iter(lambda: file.readline(_LINE_BYTES), b"")
        line = next((line for line in lines if line.strip()), None)
        value = _END if line is None else parse_json(line)
    except (csv.Error, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _cells(file: IO[bytes]) -> list[str] | None:
    """Read a row of a table, of one line or more; None at the end."""
    rows = csv.reader(line.decode() for line in iter(lambda: file.readline(_LINE_BYTES), b""))
    return next((row for row in rows if row), None)


def mention(path: Path, names: Collection[bytes]) -> bool:
    """Whether a file has one of these names in its first megabyte."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    return any(not names.isdisjoint(separator.split(head)) for separator in _SEPARATORS)  # type: ignore[attr-defined]


def samples(paths: Iterator[str]) -> Iterator[str]:
    """The first files of each folder and ending."""
    seen: dict[tuple[str, str], int] = {}
    for path in paths:
        kind = path.rpartition("/")[0], PurePosixPath(path).suffix
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= _FILES:
            yield path


def _renamed_line(line: bytes, new_name: NewName) -> bytes | None:
    is_left_out = False

    def value(found: "re.Match[bytes]") -> bytes:
        nonlocal is_left_out
        try:
            old = parse_json(found[0])
        except ValueError:
            return found[0]
        new = new_name(old)
        is_left_out |= new is None
        return found[0] if new in (None, old) else json.dumps(new, ensure_ascii=False).encode()

    new = _VALUES.sub(lambda found: found[1] + _TEXT.sub(value, found[2]), line)
    return None if is_left_out else new


def _rewrite_csv(path: Path, target: Path, new_name: NewName) -> None:
    is_same = True
    with open(path, "rb") as old:
        first = old.readline(_LINE_BYTES)
    ending = "\r\n" if first.endswith(b"\r\n") else "\n"
    encoding = "utf-8-sig" if first.startswith(b"\xef\xbb\xbf") else "utf-8"
    with open(target, "w", encoding=encoding, newline="") as file:
        rows, out = _csv_rows(path), csv.writer(file, lineterminator=ending)
        header = next(rows, [])
        places = [place for place, name in enumerate(header) if _FIELD.fullmatch(name)]
        out.writerow(header)
        for row in rows:
            new = [new_name(cell) if place in places else cell for place, cell in enumerate(row)]
            is_same &= new == row
            if None not in new:
                out.writerow(new)
    if is_same:
        shutil.copyfile(path, target)


def _csv_rows(path: Path) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise EclipseError(
            f"{path} cannot be read ({error}); expected a table of comma-separated text in UTF-8, whose file names are "
            "written anew: mend it or move it out of the folder"
        ) from error
