"""A whole data set, streamed: read and absorb beside the network, denoise, encode and store, resume, assemble.

Purified images are first kept in shards in a hidden folder beside the output; a finished shard is never lost.
When all are there, the output is assembled and renamed into place, so that it is complete or absent.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from eclipse.compute.device import compute_dtype
from eclipse.data.imageset import ImageSet
from eclipse.data.output import assemble, check_output, fingerprint, is_made
from eclipse.data.picture import Picture, repainted
from eclipse.data.pixels import quantize
from eclipse.data.store import Row, Source
from eclipse.diffusion.checkpoint import fingerprint_denoiser
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Purification, absorb, denoise, prepare
from eclipse.purification.compensation import once
from eclipse.purification.shards import Item, Shards, Writer, digest_of

BATCH_PIXELS = 1 << 24  # noised at a time: 16 million pixels are 200 MB as float32

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
        once: (p, noise, q) of the compensation to write into the data; None to leave it to training time.
        skip_bad: leave unreadable images out instead of stopping at the first.
    """

    how: Purification
    seed: int
    device: str
    format: str | None = None
    once: tuple[float, float, float] | None = None
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
    shards = Shards(out, _settings(job, denoiser), job.skip_bad, source.fingerprint())
    shards.check_input(source)
    # A kill between the last rename and the end of the run leaves both the output and its shards.
    assembled = shards.rows == len(source) and is_made(out)
    if not assembled:
        check_output(source, out, job.format)
    ready = prepare(denoiser, job.device)
    began, busy, resumed = time.monotonic(), 0.0, shards.rows
    with closing(_prefetch(_absorbed(source, ready, job, batch, resumed))) as work, Writer(shards) as writer:
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
    if assembled:
        made = fingerprint(shards.pictures())
    else:
        made = assemble(source, shards.pictures(), out, job.format, frozenset(skipped))
    return Outcome(len(source) - len(skipped), dict(skipped.values()), made, shards.folder)


def check_resumable(out: Path, job: Job, denoiser: Denoiser | None) -> None:
    """Refuse, before any work, settings other than those of the unfinished run on the same output, if there is one.

    Args:
        out: the output.
        job: what is asked for.
        denoiser: None while it is not trained yet.
    """
    Shards(out, _settings(job, denoiser), job.skip_bad)


def check_first(source: Source, config: DenoiserConfig, skip_bad: bool) -> None:
    """Refuse, before any work, a first image that cannot be read or is of a size that the denoiser does not take."""
    item = _read(next(source.rows()), skip_bad)
    if isinstance(item.picture, Picture):
        _check_size(config, item.name, *item.picture.rgb.shape[1:])


def _settings(job: Job, denoiser: Denoiser | None) -> dict[str, Any]:
    """What a state must agree on to be gone on with, as far as it is known; the names are those of the options."""
    return {
        **({} if denoiser is None else {"denoiser": fingerprint_denoiser(denoiser)}),
        "sigma": job.how.sigma * 255,
        "sampler": job.how.sampler,
        "steps": job.how.steps,
        "seed": job.seed,
        "device": torch.device(job.device).type,
        "precision": str(compute_dtype(job.device)[0]),
        "compensate": list(job.once) if job.once else None,
    }


@dataclass(frozen=True)
class _Batch:
    """Rows on their way, and the noised images among them by size, with their places in the batch."""

    first: int
    items: list[Item]
    noised: dict[tuple[int, int], tuple[list[int], Tensor]]


def _absorbed(source: Source, denoiser: Denoiser, job: Job, batch: int, start: int) -> Iterator[_Batch]:
    """Read, decode and noise batches of rows; runs in the thread of ``_prefetch``."""
    first = start
    for items in _batches(source.rows(start), batch, job.skip_bad):
        yield _Batch(first, items, _noised(denoiser, job, items))
        first += len(items)


def _batches(rows: Iterator[Row], batch: int, skip_bad: bool) -> Iterator[list[Item]]:
    """Decode rows, and end a batch where it has enough images or their pixels would take too much memory."""
    items: list[Item] = []
    pixels = 0
    for row in rows:
        item = _read(row, skip_bad)
        size = item.values // 3
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


def _read(row: Row, skip_bad: bool) -> Item:
    try:
        return Item(row.id, row.name, digest_of(row), row.picture())
    except EclipseError as error:
        if not skip_bad:
            raise EclipseError(f"{error}; --skip-bad leaves such images out") from error
        return Item(row.id, row.name, digest_of(row), str(error))


def _noised(denoiser: Denoiser, job: Job, items: list[Item]) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, item in enumerate(items):
        if not isinstance(item.picture, str):
            height, width = item.picture.rgb.shape[1:]
            _check_size(denoiser.config, item.name, height, width)
            by_size.setdefault((height, width), []).append(i)
    noised = {}
    for size, members in by_size.items():
        images = torch.from_numpy(np.stack([_picture(items[i]).rgb for i in members]))
        noised[size] = members, absorb(denoiser, images, [items[i].id for i in members], job.how, job.seed)
    return noised


def _check_size(config: DenoiserConfig, name: str, height: int, width: int) -> None:
    try:
        config.check_size(height, width)
    except EclipseError as error:
        raise EclipseError(f"{name}: {error}") from error


def _picture(item: Item) -> Picture:
    assert isinstance(item.picture, Picture)
    return item.picture


def _denoised(denoiser: Denoiser, batch: _Batch, job: Job) -> list[Item]:
    """Bring a batch back from its noise."""
    items = list(batch.items)
    for members, x_t in batch.noised.values():
        ids = [items[i].id for i in members]
        images = quantize(denoise(denoiser, x_t.to(job.device), ids, job.how, job.seed)).cpu().numpy()
        for i, image in zip(members, images, strict=True):
            picture = repainted(_picture(items[i]), image)
            if job.once is not None:
                picture = _compensated(picture, items[i].id, *job.once, job.seed)
            items[i] = replace(items[i], picture=picture)
    return items


def _compensated(picture: Picture, id: str, p: float, noise: float, q: float, seed: int) -> Picture:
    """The picture with the compensation written into it; a gray one gets one plane of noise, not the mean of three."""
    stored = picture.rgb[:1] if picture.gray else picture.rgb
    corrupted = once(ImageSet(stored[None], (id,)), p=p, noise=noise, q=q, seed=seed).images[0]
    return replace(picture, rgb=np.broadcast_to(corrupted, picture.rgb.shape))


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
