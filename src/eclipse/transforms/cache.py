"""Purified images, kept up to a bound.

When it is full, what is there stays and nothing is added: where all images are gone through again and again, to make
room for the newest would throw each of them away just before its next use.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from eclipse.data.picture import decode, encode_png, from_array, planes
from eclipse.data.pixels import Stored
from eclipse.errors import EclipseError
from eclipse.runs.files import check_local

FILE = "purified.sqlite"
_PATIENCE_S = 120.0  # for a file that other processes write to
_PAGE, _PAGES = 4096, 16  # bytes of one, and how many the empty table has room in


class Cache(Protocol):
    """Images (C, H, W), uint8, by keys."""

    def get(self, keys: Sequence[str]) -> dict[str, Stored]:
        """Those of the keys that are there."""

    def put(self, images: Mapping[str, Stored]) -> None:
        """Add images, as far as there is room."""


class MemoryCache:
    """In the memory of one process, which other processes do not see: a copy in one of them begins empty."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._images: dict[str, Stored] = {}

    def __reduce__(self) -> tuple[type["MemoryCache"], tuple[int]]:
        return MemoryCache, (self._most,)

    def get(self, keys: Sequence[str]) -> dict[str, Stored]:
        """Those of the keys that are there."""
        return {key: self._images[key] for key in keys if key in self._images}

    def put(self, images: Mapping[str, Stored]) -> None:
        """Add images, as far as there is room."""
        for key, image in images.items():
            if key not in self._images and self._bytes + image.nbytes <= self._most:
                self._images[key] = image.copy()  # and not a view of a batch, which would stay as a whole
                self._bytes += image.nbytes


class FolderCache:
    """In an SQLite file in a folder, as PNG, for any number of processes on one machine.

    SQLite keeps each image whole, whenever a process is killed, and the file below the bound; beside it lies a journal
    of some MiB while it is written. What is lost when the machine itself breaks down is found out by digests, and made
    again. Each use opens the file anew, since a connection must not go into the processes that a DataLoader forks.
    """

    def __init__(self, folder: str | Path, most: int) -> None:
        check_local(folder)
        self._file, self._most, self._full = Path(folder).absolute() / FILE, most, False
        with self._opened(create=True) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, png BLOB NOT NULL, sha256 BLOB NOT NULL)"
            )

    def get(self, keys: Sequence[str]) -> dict[str, Stored]:
        """Those of the keys that are there."""
        with self._opened() as db:
            asked = "SELECT png, sha256 FROM images WHERE key = ?"
            rows = [(key, *row) for key in keys for row in db.execute(asked, (key,))]
        return {
            key: planes(decode(png, f"image {key} of {self._file}")) for key, png, sha256 in rows if _of(png) == sha256
        }

    def put(self, images: Mapping[str, Stored]) -> None:
        """Add images, as far as there is room."""
        if self._full or not images:
            return
        pngs = [(key, encode_png(from_array(image, "an image"))) for key, image in images.items()]
        rows = [(key, png, _of(png)) for key, png in pngs]
        with self._opened() as db:
            try:
                with db:  # one transaction
                    db.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", rows)
            except sqlite3.OperationalError as error:
                if "is full" not in str(error):  # Python 3.10 has no error codes of SQLite
                    raise
                self._full = True

    @contextmanager
    def _opened(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            if create:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if create else "rw"
            with closing(sqlite3.connect(f"{self._file.as_uri()}?mode={mode}", _PATIENCE_S, uri=True)) as db:
                db.execute(f"PRAGMA max_page_count = {max(_PAGES, self._most // _PAGE)}")
                db.execute("PRAGMA synchronous = OFF")  # 2 ms for an image, where waiting for the disk takes 26
                yield db
        except (sqlite3.Error, OSError) as error:
            raise EclipseError(
                f"the cache {self._file} cannot be used ({error}); expected a folder on a disk of this machine: remove "
                "the file, or name another folder"
            ) from error


def _of(png: bytes) -> bytes:
    return hashlib.sha256(png).digest()
