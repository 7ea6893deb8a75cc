"""A whole data set, streamed: read and absorb beside the network, denoise, encode and store, resume, assemble.

Purified images are first kept in shards in a hidden folder beside the output; a finished shard is never lost.
When all are there, the output is assembled and renamed into place, so that it is complete or absent.
"""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from eclipse.compensate import once
from eclipse.data.assemble import assemble, check_output
from eclipse.data.imageset import ImageSet
from eclipse.data.pictures import Picture, encode_png
from eclipse.data.pixels import quantize
from eclipse.data.rows import Row, Source
from eclipse.device import compute_dtype
from eclipse.diffusion.denoiser import Denoiser
from eclipse.errors import EclipseError
from eclipse.purification import BATCH_PIXELS, Purification, absorb, denoise, prepare
from eclipse.runs import check_same_settings, write_json, write_whole

SHARD_ROWS, SHARD_BYTES = 2048, 64 << 20  # whichever is reached first; what a kill can lose
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("origin", pa.binary(16)),
        ("png", pa.large_binary()),
        ("refused", pa.string()),
    ]
)

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far the purification of a data set is.

    Attributes:
        done: rows purified or skipped, resumed ones included.
        total: rows in all.
        images_per_s: of this run.
        busy: the share of this run's time in which the network was at work.
    """

    done: int
    total: int
    images_per_s: float
    busy: float


@dataclass(frozen=True)
class Outcome:
    """What became of a data set.

    Attributes:
        purified: rows in the output.
        skipped: from the name of each left-out image to the reason.
        fingerprint: SHA-256 over the ids and the pixels' PNG bytes, in order.
        shards: the intermediate folder, of no more use once the outcome is on record.
    """

    purified: int
    skipped: Mapping[str, str]
    fingerprint: str
    shards: Path

    def forget(self) -> None:
        """Delete the intermediate files."""
        shutil.rmtree(self.shards, ignore_errors=True)


@dataclass(frozen=True)
class Job:
    """All that decides the bytes of an output.

    Attributes:
        how: the purification.
        seed: of the noise.
        device: where the network runs.
        format: None for the input's layout.
        once: (p, sigma) of the compensation to write into the data; None to leave it to training time.
        skip_bad: leave unreadable images out instead of stopping at the first.
    """

    how: Purification
    seed: int
    device: str
    format: str | None = None
    once: tuple[float, float] | None = None
    skip_bad: bool = False


def purify_source(
    source: Source,
    denoiser: Denoiser,
    out: Path,
    job: Job,
    *,
    batch: int = 256,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Purify a data set of any size into ``out``, going on where an interrupted run was.

    Args:
        source: from ``open_source``.
        denoiser: trained on levels up to ``job.how.sigma``.
        out: must not exist; it appears when it is complete.
        job: decides the bytes.
        batch: images read at a time; does not change the result.
        on_progress: called after every batch.

    Raises:
        EclipseError: an unreadable image (unless skipped), an output that cannot be, other settings than those of
            the run that is to be resumed.
    """
    shards = _Shards(out, _settings(job, denoiser), job.skip_bad, source.fingerprint())
    shards.check_input(source)
    # A kill between the last rename and the end of the run leaves both the output and its shards.
    assembled = shards.rows == len(source) and is_made(out)
    if not assembled:
        check_output(source, out, job.format)
    job.how.indices(denoiser)
    ready = prepare(denoiser, job.device)
    began, busy, resumed = time.monotonic(), 0.0, shards.rows
    with closing(_prefetch(_absorbed(source, ready, job, batch, resumed))) as work, _Writer(shards) as writer:
        for absorbed in work:
            at = time.monotonic()
            finished = _denoised(ready, absorbed, job)
            now = time.monotonic()
            busy += now - at
            writer.put(finished)
            done = absorbed.first + len(finished)
            on_progress(Progress(done, len(source), (done - resumed) / (now - began), busy / (now - began)))
    skipped = shards.skipped()
    if len(skipped) == len(source):
        shutil.rmtree(shards.folder)
        raise EclipseError(f"{source.spec}: none of its {len(source)} images can be read; nothing to purify")
    digest = hashlib.sha256()
    pictures = _digested(shards.pictures(), digest)
    if assembled:
        deque(pictures, maxlen=0)
    else:
        assemble(source, pictures, out, job.format, frozenset(skipped))
    return Outcome(len(source) - len(skipped), dict(skipped.values()), digest.hexdigest(), shards.folder)


def shard_folder(out: Path) -> Path:
    """Where the shards of an unfinished output lie: hidden, beside it."""
    return out.with_name(f".{out.name}.purifying")


def is_made(out: Path) -> bool:
    """Whether there is anything at the place of an output; an empty folder is nothing."""
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def check_resumable(out: Path, job: Job, denoiser: Denoiser | None) -> None:
    """Refuse, before any work, settings other than those of the unfinished run on the same output, if there is one.

    Args:
        out: the output.
        job: what is asked for.
        denoiser: None while it is not trained yet.
    """
    _Shards(out, _settings(job, denoiser), job.skip_bad)


def _digested(pictures: Iterator[tuple[str, bytes]], digest: hashlib._Hash) -> Iterator[tuple[str, bytes]]:
    for id, png in pictures:
        digest.update(id.encode("utf-8", "surrogatepass"))
        digest.update(png)
        yield id, png


def check_first(source: Source, denoiser: Denoiser, skip_bad: bool) -> None:
    """Refuse, before any work, a first image that cannot be read or is of a size that the denoiser does not take."""
    item = _read(next(source.rows()), skip_bad)
    if isinstance(item.picture, Picture):
        _check_size(denoiser, item.name, *item.picture.rgb.shape[1:])


def _settings(job: Job, denoiser: Denoiser | None) -> dict[str, Any]:
    """What a state must agree on to be gone on with, as far as it is known; the names are those of the options."""
    return {
        **({} if denoiser is None else {"denoiser": fingerprint_denoiser(denoiser)}),
        "sigma": job.how.sigma * 255,
        "steps": job.how.steps,
        "sampler": job.how.sampler,
        "seed": job.seed,
        "device": torch.device(job.device).type,
        "precision": str(compute_dtype(job.device)[0]),
        "compensate": list(job.once) if job.once else None,
    }


@dataclass(frozen=True)
class _Item:
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


@dataclass(frozen=True)
class _Batch:
    """Rows on their way, and the noised images among them by size, with their places in the batch."""

    first: int
    items: list[_Item]
    noised: dict[tuple[int, int], tuple[list[int], Tensor]]


def _absorbed(source: Source, denoiser: Denoiser, job: Job, batch: int, start: int) -> Iterator[_Batch]:
    """Read, decode and noise batches of rows; runs in the thread of ``_prefetch``."""
    first = start
    for items in _batches(source.rows(start), batch, job.skip_bad):
        yield _Batch(first, items, _noised(denoiser, job, items))
        first += len(items)


def _batches(rows: Iterator[Row], batch: int, skip_bad: bool) -> Iterator[list[_Item]]:
    """Decode rows, and end a batch where it has enough images or their pixels would take too much memory."""
    items: list[_Item] = []
    pixels = 0
    for row in rows:
        item = _read(row, skip_bad)
        size = _values(item) // 3
        if items and pixels + size > BATCH_PIXELS:
            yield items
            items, pixels = [], 0
        items.append(item)
        pixels += size
        if len(items) == batch:
            yield items
            items, pixels = [], 0
    if items:
        yield items


def _read(row: Row, skip_bad: bool) -> _Item:
    try:
        return _Item(row.id, row.name, _origin(row), row.picture())
    except EclipseError as error:
        if not skip_bad:
            raise EclipseError(f"{error}; --skip-bad leaves such images out") from error
        return _Item(row.id, row.name, _origin(row), str(error))


def _origin(row: Row) -> bytes:
    data = row.data if isinstance(row.data, bytes) else np.ascontiguousarray(row.data).data
    return hashlib.blake2b(data, digest_size=16).digest()


def _values(item: _Item) -> int:
    """How many numbers the image consists of."""
    return 0 if isinstance(item.picture, str) else item.picture.rgb.size


def _noised(denoiser: Denoiser, job: Job, items: list[_Item]) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, item in enumerate(items):
        if not isinstance(item.picture, str):
            height, width = item.picture.rgb.shape[1:]
            _check_size(denoiser, item.name, height, width)
            by_size.setdefault((height, width), []).append(i)
    noised = {}
    for size, members in by_size.items():
        images = torch.from_numpy(np.stack([_picture(items[i]).rgb for i in members]))
        noised[size] = members, absorb(denoiser, images, [items[i].id for i in members], job.how, job.seed)
    return noised


def _check_size(denoiser: Denoiser, name: str, height: int, width: int) -> None:
    try:
        denoiser.check_size(height, width)
    except EclipseError as error:
        raise EclipseError(f"{name}: {error}") from error


def _picture(item: _Item) -> Picture:
    assert isinstance(item.picture, Picture)
    return item.picture


def _denoised(denoiser: Denoiser, batch: _Batch, job: Job) -> list[_Item]:
    """Bring a batch back from its noise."""
    items = list(batch.items)
    for members, x_t in batch.noised.values():
        ids = [items[i].id for i in members]
        images = quantize(denoise(denoiser, x_t.to(job.device), ids, job.how, job.seed)).cpu().numpy()
        for i, image in zip(members, images, strict=True):
            picture = _repainted(_picture(items[i]), image)
            if job.once is not None:
                picture = _compensated(picture, items[i].id, *job.once, job.seed)
            items[i] = replace(items[i], picture=picture)
    return items


def _repainted(picture: Picture, rgb: NDArray[np.uint8]) -> Picture:
    """The picture with purified pixels; one that was gray stays so."""
    if picture.gray:
        gray = rgb.mean(axis=0, dtype=np.float32).round().astype(np.uint8)
        rgb = np.repeat(gray[None], 3, axis=0)
    return replace(picture, rgb=rgb)


def _compensated(picture: Picture, id: str, p: float, sigma: float, seed: int) -> Picture:
    """The picture with the compensation written into it; a gray one gets one plane of noise, not the mean of three."""
    stored = picture.rgb[:1] if picture.gray else picture.rgb
    corrupted = once(ImageSet(stored[None], (id,)), p=p, sigma=sigma, seed=seed).images[0]
    return replace(picture, rgb=np.broadcast_to(corrupted, picture.rgb.shape))


def fingerprint_denoiser(denoiser: Denoiser) -> str:
    """SHA-256 over the names and values of a denoiser's weights."""
    digest = hashlib.sha256()
    for name, weights in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.float().contiguous().cpu().numpy())
    return digest.hexdigest()


class _Shards:
    """Finished rows on the disk, in order, in files that are whole or absent.

    Opening refuses finished rows that were made with other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], skip_bad: bool, input: str = "") -> None:
        self.folder = shard_folder(out)
        self._settings = {**settings, "input": input}
        self.files = sorted(self.folder.glob("shard-*.arrow"))
        self.rows = sum(table.num_rows for table in self._tables())
        if self.files:
            made = self._made()
            check_same_settings({name: made.get(name) for name in settings}, settings, self.folder)
            if not skip_bad and self.skipped():
                check_same_settings({"skip-bad": True}, {"skip-bad": False}, self.folder)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "settings.json"

    def _made(self) -> dict[str, Any]:
        return dict(json.loads(self._settings_file.read_text()))

    def check_input(self, source: Source) -> None:
        """Refuse a changed input, unless only rows changed that are not finished: a bad image may have been mended."""
        if not self.files or self._made().get("input") == self._settings["input"]:
            return
        rows = source.rows()
        for table in self._tables():
            for id, origin in zip(table["id"].to_pylist(), table["origin"].to_pylist(), strict=True):
                row = next(rows, None)
                if row is None or (row.id, _origin(row)) != (id, origin):
                    raise EclipseError(
                        f"the image {id} of {source.spec} has changed since {self.folder} was made from it; put the "
                        "old one back, choose another output, or delete that folder to start anew"
                    )

    def add(self, items: list[_Item]) -> None:
        """Store items, encoded, as the next shard."""
        refused = [item.picture if isinstance(item.picture, str) else None for item in items]
        png = [None if isinstance(item.picture, str) else encode_png(item.picture) for item in items]
        columns = [[x.id for x in items], [x.name for x in items], [x.origin for x in items], png, refused]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        if not self.files:
            write_json(self._settings_file, self._settings)
        path = self.folder / f"shard-{len(self.files):06d}.arrow"
        write_whole(path, sink.getvalue())
        self.files.append(path)

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """The id and the PNG bytes of every row that was not skipped, in order."""
        for table in self._tables():
            for row in table.to_pylist():
                if row["refused"] is None:
                    yield row["id"], row["png"]

    def skipped(self) -> dict[str, tuple[str, str]]:
        """From the id of every skipped row to its name and the reason."""
        found = {}
        for table in self._tables():
            for row in table.filter(pc.is_valid(table["refused"])).to_pylist():
                found[row["id"]] = row["name"], row["refused"]
        return found

    def _tables(self) -> Iterator[pa.Table]:
        for path in self.files:
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_file(file).read_all()


class _Writer:
    """Encodes and stores items in a thread of its own, so that the network does not wait."""

    def __init__(self, shards: _Shards) -> None:
        self._shards = shards
        self._queue: queue.Queue[list[_Item] | None] = queue.Queue(maxsize=4)
        self._waiting: list[_Item] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def put(self, items: list[_Item]) -> None:
        """Hand items over; raises what went wrong with earlier ones."""
        self._raise()
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
        items: list[_Item] | None = []
        while items is not None:
            items = self._queue.get()
            if self._error is None:
                try:
                    self._take(items)
                except BaseException as error:  # handed to the main thread by the next put
                    self._error = error

    def _take(self, items: list[_Item] | None) -> None:
        """Store what is waiting when it makes a shard, or when no more comes."""
        self._waiting += items or []
        full = len(self._waiting) >= SHARD_ROWS or sum(map(_values, self._waiting)) >= SHARD_BYTES
        if self._waiting and (full or items is None):
            self._shards.add(self._waiting)
            self._waiting = []


def _prefetch(items: Iterator[T], ahead: int = 3) -> Generator[T, None, None]:
    """Run an iterator in a thread, a few items ahead; its exceptions come out here."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def offer(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                offer(item, None)
                if stop.is_set():
                    return
            offer(None, None)
        except BaseException as error:
            offer(None, error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()  # a thread that computes while the interpreter shuts down can crash it
