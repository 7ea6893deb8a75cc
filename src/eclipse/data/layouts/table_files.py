"""How Parquet files and Arrow streams are read and written: batch by batch, in memory bounded by a row group."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from eclipse.errors import reading

_BATCH_ROWS = 64  # read at once; images may have megabytes
_BATCH_BYTES = 2**27  # and no more than these, whatever the rows are
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100
_GROUP_ROWS = 5000  # a row group is written when it reaches one of these two
_GROUP_BYTES = 2**26


@dataclass(frozen=True)
class Codec:
    """How one kind of table file is read and written.

    Attributes:
        schema: the schema of a file.
        count: the number of rows of a file.
        batches: record batches from a row of a file on, with all columns or the ones named.
        writer: open a file for writing with a schema; the last argument names the image column.
    """

    schema: Callable[[Path], Any]
    count: Callable[[Path], int]
    batches: Callable[[Path, int, Sequence[str] | None], Iterator[Any]]
    writer: Callable[[Path, Any, str], AbstractContextManager[Any]]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Word what the content of a file makes pyarrow raise."""
    with reading(path, "a table", "expected a complete Parquet or Arrow file"):
        try:
            yield
        except pa.ArrowInvalid as error:
            raise ValueError(str(error).removeprefix(f"Could not open Parquet input source '{path}': ")) from error


def write_batches(codec: Codec, target: Path, schema: Any, image: str, batches: Iterable[Any]) -> None:
    """Write batches to one file, a row group at a time."""
    with codec.writer(target, schema, image) as writer:
        for table in _grouped(batches, schema):
            writer.write_table(table)


def _grouped(batches: Iterable[Any], schema: Any) -> Iterator[Any]:
    """Join batches to tables that make a row group each."""
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= _GROUP_ROWS or sum(part.nbytes for part in waiting) >= _GROUP_BYTES:
            yield pa.Table.from_batches(waiting, schema).combine_chunks()
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting, schema).combine_chunks()


def _fragment(filesystem: Any, path: Path) -> Any:
    return ds.ParquetFileFormat().make_fragment(path.as_posix(), filesystem)


def _parquet_schema(filesystem: Any, path: Path) -> Any:
    return _fragment(filesystem, path).physical_schema


def _parquet_count(filesystem: Any, path: Path) -> int:
    return int(_fragment(filesystem, path).count_rows())


def _parquet_batches(filesystem: Any, path: Path, start: int, columns: Sequence[str] | None) -> Iterator[Any]:
    # Not by pyarrow.dataset's own scanner, which holds a whole row group: 191 MB of a file of which this holds 12. The
    # read buffer keeps pyarrow from loading whole column chunks of large row groups.
    fragment = _fragment(filesystem, path)
    with fragment.open() as opened, pq.ParquetFile(opened, buffer_size=2**20, pre_buffer=False) as file:
        skip, group = start, 0
        while group < file.num_row_groups and skip >= file.metadata.row_group(group).num_rows:
            skip -= file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        for number in groups:
            _refuse_bombs(file.metadata.row_group(number))
        # Row by row: 64 values of a dictionary can have any size, whatever the metadata say.
        rows = file.iter_batches(1, row_groups=groups, columns=columns, use_threads=False)
        for batch in _joined(islice(rows, skip, None)):
            batch.validate(full=True)  # text of unknown origin need not be UTF-8
            yield batch


def _refuse_bombs(group: Any) -> None:
    """Raise for a column that unpacks to far more than images and text do; a page of it is unpacked as a whole."""
    for column in map(group.column, range(group.num_columns)):
        packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
        if unpacked > max(_BOMB_BYTES, _BOMB_RATIO * packed):
            raise ValueError(
                f"{column.path_in_schema} unpacks from {packed:,} bytes to {unpacked:,}, as decompression bombs do"
            )


def _joined(rows: Iterable[Any]) -> Iterator[Any]:
    """Join batches of a row each to batches of bounded size."""
    waiting: list[Any] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += row.nbytes
        if len(waiting) == _BATCH_ROWS or size >= _BATCH_BYTES:
            batch, waiting, size = _one(waiting), [], 0
            yield batch
    if waiting:
        yield _one(waiting)


def _one(batches: list[Any]) -> Any:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)  # which copies also a single one


def _parquet_writer(target: Path, schema: Any, image: str) -> AbstractContextManager[Any]:
    """Open a Parquet file; neither dictionaries nor minima make sense for the bytes of images."""
    plain = [field.name for field in schema if field.name != image and not pa.types.is_nested(field.type)]
    writer: AbstractContextManager[Any] = pq.ParquetWriter(
        target, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
    )
    return writer


@contextmanager
def _arrow_reader(path: Path) -> Iterator[Any]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield reader


def _arrow_schema(path: Path) -> Any:
    with _arrow_reader(path) as reader:
        return reader.schema


def _arrow_count(path: Path) -> int:
    _refuse_compressed(path)
    with _arrow_reader(path) as reader:
        return sum(len(batch) for batch in reader)


def _refuse_compressed(path: Path) -> None:
    """Raise for compressed batches: how large they become is known when it is too late, and no library writes them."""
    with pa.memory_map(str(path)) as file:
        for message in pa.ipc.MessageReader.open_stream(file):
            if message.type == "record batch" and _is_compressed(message.metadata.to_pybytes()):
                raise ValueError("its batches are compressed; expected uncompressed ones, as `datasets` saves them")


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message of the Arrow format (Message.fbs) has a RecordBatch with a field ``compression``."""

    def field(table: int, number: int) -> int:
        """Where a field of a flatbuffers table lies, 0 where it has none."""
        (back,) = struct.unpack_from("<i", metadata, table)
        (size,) = struct.unpack_from("<H", metadata, table - back)
        entry = 4 + 2 * number
        (offset,) = struct.unpack_from("<H", metadata, table - back + entry) if entry < size else (0,)
        return table + offset if offset else 0

    (message,) = struct.unpack_from("<I", metadata, 0)
    header = field(message, 2)
    (offset,) = struct.unpack_from("<I", metadata, header)
    return field(header + offset, 3) != 0


def _arrow_batches(path: Path, start: int, columns: Sequence[str] | None) -> Iterator[Any]:
    skip = start
    with _arrow_reader(path) as reader:
        for batch in reader:
            if skip < len(batch):
                batch.validate(full=True)  # a file of unknown origin may hold offsets that point anywhere
                chosen = batch if columns is None else batch.select(list(columns))
                for first in range(skip, len(batch), _BATCH_ROWS):
                    yield chosen.slice(first, _BATCH_ROWS)
            skip = max(skip - len(batch), 0)


@contextmanager
def _arrow_writer(target: Path, schema: Any, image: str) -> Iterator[Any]:
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        yield writer


def parquet_on(filesystem: Any) -> Codec:
    """Parquet files on a filesystem of `pyarrow.fs`; what is written is local."""
    return Codec(
        schema=partial(_parquet_schema, filesystem),
        count=partial(_parquet_count, filesystem),
        batches=partial(_parquet_batches, filesystem),
        writer=_parquet_writer,
    )


PARQUET = parquet_on(LocalFileSystem())
ARROW = Codec(_arrow_schema, _arrow_count, _arrow_batches, _arrow_writer)
