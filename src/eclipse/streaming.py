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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
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
from eclipse.diffusion.denoiser import Denoiser
from eclipse.errors import EclipseError
from eclipse.purification import Purification, absorb, denoise, prepare
from eclipse.runs import check_same_settings, write_json, write_whole

BATCH_PIXELS = 1 << 24  # of one batch in memory: 16 million pixels are 200 MB as float32
SHARD_ROWS, SHARD_BYTES = 2048, 64 << 20  # whichever is reached first; what a kill can lose
_SCHEMA = pa.schema([("id", pa.string()), ("name", pa.string()), ("png", pa.large_binary()), ("refused", pa.string())])

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
    # A kill between the last rename and the end of the run leaves both the output and its shards.
    assembled = out.exists() and shard_folder(out).exists()
    if not assembled:
        check_output(source, out, job.format)
    job.how.indices(denoiser)
    shards = _Shards(shard_folder(out), _settings(source, denoiser, job))
    ready = prepare(denoiser, job.device)
    began, busy, resumed = time.monotonic(), 0.0, shards.rows
    work = _prefetch(_absorbed(source, ready, job, batch, shards.rows))
    with _Writer(shards) as writer:
        for absorbed in work:
            at = time.monotonic()
            finished = _denoised(ready, absorbed, job)
            now = time.monotonic()
            busy += now - at
            writer.put(finished)
            done = absorbed.first + len(absorbed.rows)
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


def _digested(pictures: Iterator[tuple[str, bytes]], digest: hashlib._Hash) -> Iterator[tuple[str, bytes]]:
    for id, png in pictures:
        digest.update(id.encode("utf-8", "surrogatepass"))
        digest.update(png)
        yield id, png


def _settings(source: Source, denoiser: Denoiser, job: Job) -> dict[str, Any]:
    """What a state must agree on to be gone on with; the names are those of the options."""
    return {
        "input": source.fingerprint(),
        "denoiser": fingerprint_denoiser(denoiser),
        "sigma": job.how.sigma * 255,
        "steps": job.how.steps,
        "sampler": job.how.sampler,
        "seed": job.seed,
        "device": torch.device(job.device).type,
        "compensate": list(job.once) if job.once else None,
        "skip-bad": job.skip_bad,
    }


@dataclass(frozen=True)
class _Result:
    """A row and what became of it: its purified picture, or the reason why it is left out."""

    row: Row
    picture: Picture | str


@dataclass(frozen=True)
class _Batch:
    """Rows on their way: a picture or the reason why there is none, and the noised ones by their size."""

    first: int
    rows: list[Row]
    pictures: list[Picture | str]
    noised: dict[tuple[int, int], tuple[list[int], Tensor]]


def _absorbed(source: Source, denoiser: Denoiser, job: Job, batch: int, start: int) -> Iterator[_Batch]:
    """Read, decode and noise batches of rows; runs in the thread of ``_prefetch``."""
    rows = source.rows(start)
    first = start
    while chunk := list(islice(rows, batch)):
        for part, pictures in _within_budget(chunk, job.skip_bad):
            yield _absorb_batch(denoiser, job, first, part, pictures)
            first += len(part)


def _within_budget(chunk: list[Row], skip_bad: bool) -> Iterator[tuple[list[Row], list[Picture | str]]]:
    """Decode rows and cut them where their pixels would take too much memory."""
    rows: list[Row] = []
    pictures: list[Picture | str] = []
    pixels = 0
    for row in chunk:
        picture = _decode(row, skip_bad)
        size = 0 if isinstance(picture, str) else picture.rgb[0].size
        if rows and pixels + size > BATCH_PIXELS:
            yield rows, pictures
            rows, pictures, pixels = [], [], 0
        rows.append(row)
        pictures.append(picture)
        pixels += size
    yield rows, pictures


def _decode(row: Row, skip_bad: bool) -> Picture | str:
    try:
        return row.picture()
    except EclipseError as error:
        if not skip_bad:
            raise EclipseError(f"{error}; --skip-bad leaves such images out") from error
        return str(error)


def _absorb_batch(denoiser: Denoiser, job: Job, first: int, rows: list[Row], pictures: list[Picture | str]) -> _Batch:
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        if not isinstance(picture, str):
            height, width = picture.rgb.shape[1:]
            _check_size(denoiser, rows[i], height, width)
            by_size.setdefault((height, width), []).append(i)
    noised = {}
    for size, members in by_size.items():
        images = torch.from_numpy(np.stack([_rgb(pictures[i]) for i in members]))
        ids = [rows[i].id for i in members]
        noised[size] = members, absorb(denoiser, images, ids, job.how, job.seed)
    return _Batch(first, rows, pictures, noised)


def _check_size(denoiser: Denoiser, row: Row, height: int, width: int) -> None:
    try:
        denoiser.check_size(height, width)
    except EclipseError as error:
        raise EclipseError(f"{row.name}: {error}") from error


def _rgb(picture: Picture | str) -> NDArray[np.uint8]:
    assert isinstance(picture, Picture)
    return picture.rgb


def _denoised(denoiser: Denoiser, batch: _Batch, job: Job) -> list[_Result]:
    """Bring a batch back from its noise."""
    results = [_Result(row, picture) for row, picture in zip(batch.rows, batch.pictures, strict=True)]
    for members, x_t in batch.noised.values():
        ids = tuple(batch.rows[i].id for i in members)
        images = quantize(denoise(denoiser, x_t.to(job.device), ids, job.how, job.seed)).cpu().numpy()
        if job.once is not None:
            p, sigma = job.once
            images = once(ImageSet(images, ids), p=p, sigma=sigma, seed=job.seed).images
        for i, image in zip(members, images, strict=True):
            results[i] = _Result(batch.rows[i], _repainted(batch.pictures[i], image))
    return results


def _repainted(picture: Picture | str, rgb: NDArray[np.uint8]) -> Picture:
    """The picture with purified pixels; one that was gray stays so."""
    assert isinstance(picture, Picture)
    if picture.gray:
        gray = rgb.mean(axis=0, dtype=np.float32).round().astype(np.uint8)
        rgb = np.repeat(gray[None], 3, axis=0)
    return replace(picture, rgb=rgb)


def fingerprint_denoiser(denoiser: Denoiser) -> str:
    """SHA-256 over the names and values of a denoiser's weights."""
    digest = hashlib.sha256()
    for name, weights in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.float().contiguous().cpu().numpy())
    return digest.hexdigest()


class _Shards:
    """Finished rows on the disk, in order, in files that are whole or absent."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        settings_file = folder / "settings.json"
        if settings_file.exists():
            check_same_settings(json.loads(settings_file.read_text()), settings, folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(settings_file, settings)
        self.files = sorted(folder.glob("shard-*.arrow"))
        self.rows = sum(table.num_rows for table in self._tables())

    def add(self, results: list[_Result]) -> None:
        """Store results, encoded, as the next shard."""
        refused = [r.picture if isinstance(r.picture, str) else None for r in results]
        png = [None if isinstance(r.picture, str) else encode_png(r.picture) for r in results]
        columns = [[r.row.id for r in results], [r.row.name for r in results], png, refused]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, _SCHEMA, strict=True)]
        batch = pa.record_batch(arrays, schema=_SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(batch)
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
    """Encodes and stores results in a thread of its own, so that the network does not wait."""

    def __init__(self, shards: _Shards) -> None:
        self._shards = shards
        self._queue: queue.Queue[list[_Result] | None] = queue.Queue(maxsize=4)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def put(self, results: list[_Result]) -> None:
        """Hand results over; raises what went wrong with earlier ones."""
        self._raise()
        self._queue.put(results)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        pending: list[_Result] = []
        size = 0
        while (results := self._queue.get()) is not None:
            if self._error is None:
                pending += results
                size += sum(_rgb(r.picture).size for r in results if not isinstance(r.picture, str))
                if len(pending) >= SHARD_ROWS or size >= SHARD_BYTES:
                    self._store(pending)
                    pending, size = [], 0
        if pending and self._error is None:
            self._store(pending)

    def _store(self, results: list[_Result]) -> None:
        try:
            self._shards.add(results)
        except BaseException as error:  # handed to the main thread by the next put
            self._error = error


def _prefetch(items: Iterator[T], ahead: int = 3) -> Iterator[T]:
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

    threading.Thread(target=run, daemon=True).start()
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
