"""Finished rows on the disk: whole files in a hidden folder beside the output, in the order of the rows."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eclipse.data.encoding import PNG, Encoding
from eclipse.data.picture import Picture
from eclipse.data.store import Row, Source
from eclipse.errors import EclipseError, reading
from eclipse.purification.room import Room
from eclipse.runs.files import whole
from eclipse.runs.manifest import check_same_settings

SHARD_ROWS, SHARD_BYTES = 2048, 64 << 20  # whichever is reached first; what a kill can lose
_SUM_BYTES, _PART_BYTES = 16, 1 << 20
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("origin", pa.binary(16)),
        ("image", pa.large_binary()),
        ("refused", pa.string()),
    ]
)


@dataclass(frozen=True)
class Item:
    """A row on its way.

    Attributes:
        id: of the row.
        name: for messages.
        origin: digest of what was read, to tell whether a finished row is still the same.
        picture: as read, later as purified; or the reason why there is none.
    """

    id: str
    name: str
    origin: bytes
    picture: Picture | str

    @property
    def values(self) -> int:
        """How many numbers the image consists of; none where there is no image."""
        return 0 if isinstance(self.picture, str) else self.picture.rgb.size


def digest_of(row: Row) -> bytes:
    """A digest of what was read of a row."""
    data = row.data if isinstance(row.data, bytes) else np.ascontiguousarray(row.data).data
    return hashlib.blake2b(data, digest_size=16).digest()


class Shards:
    """Finished rows on the disk, in order, in files that are whole or absent.

    Args:
        folder: where they lie.
        denoiser: the fingerprint of what purifies; rows that another denoiser purified are refused.
        encoding: of the images; who goes on with them sees to it that it is the same.
    """

    def __init__(self, folder: Path, denoiser: str, encoding: Encoding = PNG) -> None:
        self.folder, self._encoding = folder, encoding
        self._schema = _SCHEMA.with_metadata({"denoiser": denoiser})
        self.files = sorted(folder.glob("shard-*.arrow"))
        self.rows = 0
        for table in self._tables(verified=True):
            self.rows += table.num_rows
            made = (table.schema.metadata or {}).get(b"denoiser", b"").decode()
            check_same_settings({"denoiser": made}, {"denoiser": denoiser}, folder)

    def check(self, source: Source, skip_bad: bool) -> None:
        """Refuse a source whose finished rows have changed, or in which bad images are no longer to be skipped.

        Rows that are not finished may have changed: a bad image may have been mended.
        """
        if not skip_bad and self.skipped():
            check_same_settings({"skip-bad": True}, {"skip-bad": False}, self.folder)
        for _ in self._compared(source, ["id", "origin"]):
            pass

    def add(self, items: list[Item]) -> None:
        """Store items, encoded, as the next shard."""
        refused = [item.picture if isinstance(item.picture, str) else None for item in items]
        images = [self._encoded(item) for item in items]
        columns: list[Sequence[Any]] = [
            [x.id for x in items],
            [x.name for x in items],
            [x.origin for x in items],
            images,
            refused,
        ]
        arrays = [_column(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        del columns, images  # of large images each is as large as they are
        path = self.folder / f"shard-{len(self.files):06d}.arrow"
        with whole(path) as partial, partial.open("x+b") as file:
            with pa.ipc.new_file(file, self._schema) as writer:
                writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            file.seek(0)
            file.write(checksum(iter(lambda: file.read(_PART_BYTES), b"")))
        self.files.append(path)

    def _encoded(self, item: Item) -> bytes | None:
        return None if isinstance(item.picture, str) else self._encoding.encode(item.picture, item.name)

    def pictures(self, source: Source) -> Iterator[tuple[str, bytes]]:
        """The id and the encoded image of every row that was not skipped; refuse a source that has changed."""
        for kept in self._compared(source, ["id", "origin", "image", "refused"]):
            if kept["refused"] is None:
                yield kept["id"], kept["image"]

    def _compared(self, source: Source, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the finished rows, each one compared with the row of the source that it was made from."""
        rows = source.rows()
        for table in self._tables():
            for kept in table.select(columns).to_pylist():
                row = next(rows, None)
                if row is None or (row.id, digest_of(row)) != (kept["id"], kept["origin"]):
                    raise EclipseError(
                        f"the image {kept['id']} of {source.spec} has changed since {self.folder} was made from it; "
                        "put the old one back, choose another output, or delete that folder to start anew"
                    )
                yield kept

    def skipped(self) -> dict[str, tuple[str, str]]:
        """From the id of every skipped row to its name and the reason."""
        found = {}
        for table in self._tables():
            for row in table.filter(pc.is_valid(table["refused"])).to_pylist():
                found[row["id"]] = row["name"], row["refused"]
        return found

    def _tables(self, verified: bool = False) -> Iterator[pa.Table]:
        for path in self.files:
            with reading(path, "finished rows", f"delete {self.folder} to begin anew"):
                table = _read_table(path, verified)
            yield table


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array; that of one large image is its bytes themselves, no copy."""
    if kind != pa.large_binary() or len(values) != 1 or values[0] is None:
        return pa.array(values, kind)
    ends = np.array([0, len(values[0])], np.int64)
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(ends), pa.py_buffer(values[0])])


def _read_table(path: Path, verified: bool) -> pa.Table:
    """Read a shard; ValueError or what Arrow raises for one that was not written here."""
    with pa.memory_map(str(path)) as file:
        content = file.read_buffer()
    body = content.slice(0, max(len(content) - _SUM_BYTES, 0))
    if verified and checksum([body]) != content.slice(len(body)).to_pybytes():
        raise ValueError("its bytes are not those that were written")
    table = pa.ipc.open_file(body).read_all()
    table.validate(full=True)
    if not table.schema.equals(_SCHEMA):
        raise ValueError("it has other columns")
    return table


def checksum(parts: Iterable[Any]) -> bytes:
    """What stands behind the table in a file: a digest of all before it, which tells damaged images from made ones."""
    digest = hashlib.blake2b(digest_size=_SUM_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


class Writer:
    """Encodes and stores items in a thread of its own, so that the network does not wait."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._queue: queue.Queue[list[Item] | None] = queue.Queue(maxsize=4)
        self._room = Room(SHARD_BYTES)
        self._waiting: list[Item] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def put(self, items: list[Item]) -> None:
        """Hand items over; raises what went wrong with earlier ones."""
        self._raise()
        self._room.enter(_values(items))
        self._queue.put(items)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        # After an error the queue is emptied all the same: a full one would hold up the main thread for ever.
        items: list[Item] | None = []
        while items is not None:
            items = self._queue.get()
            size = _values(items or [])
            if self._error is None:
                try:
                    self._take(items)
                except BaseException as error:  # handed to the main thread by the next put
                    self._error = error
            self._room.leave(size)

    def _take(self, items: list[Item] | None) -> None:
        """Store what is waiting when it makes a shard, or when no more comes."""
        self._waiting += items or []
        full = len(self._waiting) >= SHARD_ROWS or _values(self._waiting) >= SHARD_BYTES
        if self._waiting and (full or items is None):
            self._shards.add(self._waiting)
            self._waiting = []


def _values(items: list[Item]) -> int:
    return sum(item.values for item in items)
