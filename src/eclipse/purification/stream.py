"""A whole data set, streamed: read and absorb beside the network, denoise, encode and store in shards."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from eclipse.data.imageset import ImageSet
from eclipse.data.picture import Picture, repainted
from eclipse.data.pixels import as_tensor
from eclipse.data.store import Row, Source
from eclipse.diffusion.denoiser import Denoiser, DenoiserConfig
from eclipse.diffusion.tiling import pixels_seen
from eclipse.errors import EclipseError
from eclipse.purification.algorithm import Purification, absorb, denoise, group_size, prepare
from eclipse.purification.compensation import once
from eclipse.purification.room import Room
from eclipse.purification.shards import Item, Shards, Writer, digest_of

BATCH = 256  # images read at a time
BATCH_PIXELS = 1 << 22  # noised at a time: 4 million pixels are 50 MB as float32
TOLD_PIXELS = 1 << 18  # after which progress is told within a batch: half a second of a processor

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far the purification of a data set is.

    Attributes:
        done: rows purified or skipped, resumed ones included.
        total: rows in all.
        images_per_s: of this run.
        busy: the share of this run's time in which the network was at work.
        begun: how many rows the work on the next ones is worth.
    """

    done: int
    total: int
    images_per_s: float
    busy: float
    begun: float = 0.0

    @property
    def what(self) -> str:
        """For people."""
        return "purifying"

    @property
    def share(self) -> float:
        """Of the rows that are done, with what is begun."""
        return (self.done + self.begun) / self.total

    @property
    def figures(self) -> str:
        """Rows, speed, and how busy the network was."""
        speed = f"{self.images_per_s:.0f}" if self.images_per_s >= 10 else f"{self.images_per_s:.2g}"
        return f"{self.done} of {self.total}, {speed} images/s, network busy {self.busy:.0%}"

    @property
    def seconds_left(self) -> float:
        """At the speed of this run."""
        return (self.total - self.done - self.begun) / self.images_per_s if self.images_per_s else 0.0


@dataclass(frozen=True)
class Treatment:
    """All that decides what becomes of an image.

    Attributes:
        how: the purification.
        seed: of the noise.
        device: where the network runs.
        once: (p, noise, q) of the compensation to write into the data; None to leave it to training time.
        skip_bad: leave unreadable images out instead of stopping at the first.
    """

    how: Purification
    seed: int
    device: str
    once: tuple[float, float, float] | None = None
    skip_bad: bool = False


def purify_rows(
    source: Source,
    denoiser: Denoiser,
    treatment: Treatment,
    shards: Shards,
    *,
    batch: int = BATCH,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Purify a data set of any size into shards, going on after the rows that are in these.

    Args:
        source: from ``open_source``.
        denoiser: trained on levels up to ``treatment.how.sigma``.
        treatment: decides the bytes.
        shards: keep what is done.
        batch: images read at a time; does not change the result.
        tell: called after every batch, and within one of many pixels.

    Raises:
        EclipseError: an unreadable image (unless skipped), or one of a size that the denoiser does not take.
    """
    ready = prepare(denoiser, treatment.device)
    pace = _Pace(ready, len(source), shards.rows, tell)
    room = Room(4 * BATCH_PIXELS)
    absorbed_ahead = _prefetch(_absorbed(source, ready, treatment, batch, shards.rows, room))
    with closing(absorbed_ahead) as work, Writer(shards) as writer, room:
        for absorbed in work:
            pace.start(len(absorbed.items), _work(ready, absorbed, treatment))
            finished = _denoised(ready, absorbed, treatment)
            pace.stop()
            writer.put(finished)
            pixels = _pixels(absorbed.items)
            del absorbed, finished
            room.leave(pixels)
            pace.told()


class _Pace:
    """Tells how far a run is: after each batch, and within one by the pixels that the network has seen of it.

    Args:
        denoiser: from ``prepare``, which gives a copy.
        total: rows in all.
        resumed: of which were done before this run.
        tell: see ``purify_rows``.
    """

    def __init__(self, denoiser: Denoiser, total: int, resumed: int, tell: Callable[[Progress], None]) -> None:
        self._total, self._resumed, self._done, self._tell = total, resumed, resumed, tell
        self._began, self._busy = time.monotonic(), 0.0
        self._rows = self._pixels = self._seen = self._told = 0
        denoiser.register_forward_hook(self._count)

    def start(self, rows: int, pixels: int) -> None:
        """Begin a batch of so many rows, of which the network will see so many pixels."""
        self._rows, self._pixels, self._seen, self._told = rows, pixels, 0, 0
        self._busy -= time.monotonic()

    def stop(self) -> None:
        """The network is done with the batch."""
        self._busy += time.monotonic()
        self._done += self._rows

    def told(self, begun: float = 0.0, busy: float = 0.0) -> None:
        """Tell what is done, and how many rows the work on others is worth."""
        seconds, done = time.monotonic() - self._began, self._done
        speed = (done - self._resumed + begun) / seconds
        self._tell(Progress(done, self._total, speed, (self._busy + busy) / seconds, begun))

    def _count(self, denoiser: nn.Module, given: tuple[Tensor, ...], answer: object) -> None:
        self._seen += given[0].shape[0] * given[0].shape[2] * given[0].shape[3]
        if self._seen - self._told >= TOLD_PIXELS and self._seen < self._pixels:
            self._told = self._seen
            self.told(self._rows * self._seen / self._pixels, time.monotonic())


def _work(denoiser: Denoiser, batch: _Batch, treatment: Treatment) -> int:
    """The pixels that the network will see of a batch, those that fill up groups too."""
    found = 0
    for (height, width), (members, _) in batch.noised.items():
        group = group_size(height * width, torch.device(treatment.device).type)
        found += -(-len(members) // group) * group * pixels_seen(height, width, denoiser.margin)
    return found * len(treatment.how.indices)


def purified_rows(rows: Iterable[Row], ready: Denoiser, treatment: Treatment) -> Iterator[Item]:
    """Rows, purified one batch after the other, with the bytes of ``purify_rows`` but nothing kept and no threads.

    Args:
        rows: in order.
        ready: the denoiser as ``prepare`` returned it.
        treatment: decides the bytes.
    """
    for items in _batches(iter(rows), BATCH, treatment.skip_bad):
        yield from _denoised(ready, _Batch(0, items, _noised(ready, treatment, items)), treatment)


def check_first(source: Source, config: DenoiserConfig, skip_bad: bool) -> None:
    """Refuse, before any work, a first image that cannot be read or is of a size that the denoiser does not take."""
    item = _read(next(source.rows()), skip_bad)
    if isinstance(item.picture, Picture):
        _check_size(config, item.name, *item.picture.rgb.shape[1:])


@dataclass(frozen=True)
class _Batch:
    """Rows on their way, and the noised images among them by size, with their places in the batch."""

    first: int
    items: list[Item]
    noised: dict[tuple[int, int], tuple[list[int], Tensor]]


def _absorbed(
    source: Source, denoiser: Denoiser, treatment: Treatment, batch: int, start: int, room: Room
) -> Iterator[_Batch]:
    """Read, decode and noise batches of rows; runs in the thread of ``_prefetch``, and waits there for room."""
    first = start
    for items in _batches(source.rows(start), batch, treatment.skip_bad):
        room.enter(_pixels(items))
        noised = _noised(denoiser, treatment, items)
        yield _Batch(first, items, noised)
        first += len(items)
        del items, noised  # not held while the next ones are made


def _pixels(items: list[Item]) -> int:
    return sum(item.values for item in items) // 3


def _batches(rows: Iterator[Row], batch: int, skip_bad: bool) -> Iterator[list[Item]]:
    """Decode rows, and end a batch where it has enough images or their pixels would take too much memory."""
    items: list[Item] = []
    pixels = 0
    for row in rows:
        item = _read(row, skip_bad)
        del row  # with the encoded bytes
        size = item.values // 3
        if items and pixels + size > BATCH_PIXELS:
            yield items
            items, pixels = [], 0
        items.append(item)
        pixels += size
        if len(items) == batch or pixels >= BATCH_PIXELS:  # at once: the next one would wait beside it
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


def _noised(
    denoiser: Denoiser, treatment: Treatment, items: list[Item]
) -> dict[tuple[int, int], tuple[list[int], Tensor]]:
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, item in enumerate(items):
        if not isinstance(item.picture, str):
            height, width = item.picture.rgb.shape[1:]
            _check_size(denoiser.config, item.name, height, width)
            by_size.setdefault((height, width), []).append(i)
    noised = {}
    for size, members in by_size.items():
        pixels = [_picture(items[i]).rgb for i in members]
        images = as_tensor(pixels[0][None] if len(pixels) == 1 else np.stack(pixels))
        noised[size] = members, absorb(denoiser, images, [items[i].id for i in members], treatment.how, treatment.seed)
    return noised


def _check_size(config: DenoiserConfig, name: str, height: int, width: int) -> None:
    try:
        config.check_size(height, width)
    except EclipseError as error:
        raise EclipseError(f"{name}: {error}") from error


def _picture(item: Item) -> Picture:
    assert isinstance(item.picture, Picture)
    return item.picture


def _denoised(denoiser: Denoiser, batch: _Batch, treatment: Treatment) -> list[Item]:
    """Bring a batch back from its noise."""
    items = list(batch.items)
    while batch.noised:
        members, x_t = batch.noised.popitem()[1]  # taken out, so that it goes as soon as it is done with
        ids = [items[i].id for i in members]
        images = denoise(denoiser, x_t.to(treatment.device), ids, treatment.how, treatment.seed).cpu().numpy()
        for i, image in zip(members, images, strict=True):
            picture = repainted(_picture(items[i]), image)
            if treatment.once is not None:
                picture = _compensated(picture, items[i].id, *treatment.once, treatment.seed)
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
                del item  # not held while the next one is made, nor below while it is waited for
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
            del item
    finally:
        stop.set()
        thread.join()  # a thread that computes while the interpreter shuts down can crash it
