"""What a denoiser's training and a purification will take: minutes, at a speed that is measured on two batches."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from eclipse.compute.device import compute_dtype, seeded
from eclipse.data.picture import form_of
from eclipse.data.pixels import to_color
from eclipse.data.store import Source
from eclipse.diffusion.denoiser import Denoiser, build_denoiser
from eclipse.diffusion.training import Image, Images, train
from eclipse.diffusion.trusted import Planned
from eclipse.errors import EclipseError
from eclipse.jobs.canary import spread
from eclipse.purification.algorithm import group_size, prepare
from eclipse.purification.stream import Treatment
from eclipse.runs.manifest import duration
from eclipse.runs.state import Work

_FEW = 2
_LONG_S, _SHORT_S = 5.0, 1.0  # for a batch
_SIDE = 64  # pixels of images that are timed; what larger ones take grows with their pixels


def first_images(source: Source, count: int) -> list[Image]:
    """A few images to measure on; none where the first cannot be read, which the work will say."""
    try:
        return [row.picture().rgb for row in islice(source.rows(), count)]
    except EclipseError:
        return []


def training_cost(planned: Planned, images: Images, device: str) -> str | None:
    """The minutes of a training on images such as these; None for no such images, which the work says."""
    if planned.minutes is not None:
        return f"{planned.minutes:g} minutes, as asked for"
    few = [to_color(image) for image in images[: planned.training.batch]]
    size = planned.config.image_size
    if not few or (size is not None and few[0].shape[1:] != (size, size)):
        return None

    def step(batch: int) -> None:
        once = replace(planned.training, iterations=1, batch=batch)
        for _ in train(denoiser, few, once, Work(0, device), dtype=compute_dtype(device)[0]):
            pass

    with seeded(0, "cost", device=device):
        denoiser = build_denoiser(planned.config)
        a_second = _images_per_s(step, planned.training.batch)
    steps = planned.training.iterations
    return _told(steps * planned.training.batch / a_second / 60, a_second / planned.training.batch, "steps", steps)


def purification_cost(source: Source, denoiser: Denoiser, treatment: Treatment) -> str | None:
    """The minutes of a purification, by the sizes of some images; None where there is nothing to measure on."""
    sizes = _sizes(source)
    if not sizes:
        return None
    mean = sum(height * width for height, width in sizes) / len(sizes)
    size = denoiser.config.image_size
    height, width = sizes[0] if size is None else (size, size)
    sides = (height, width) if size is not None else (min(height, _SIDE), min(width, _SIDE))
    ready = prepare(denoiser, treatment.device)

    @torch.inference_mode()
    def evaluate(batch: int) -> None:
        x = torch.zeros(batch, 3, *sides, device=treatment.device).contiguous(memory_format=torch.channels_last)
        float(ready(x, torch.zeros(batch, dtype=torch.int64, device=treatment.device)).eps.sum())

    group = group_size(sides[0] * sides[1], torch.device(treatment.device).type)
    pixels = sides[0] * sides[1] * _images_per_s(evaluate, group)
    a_second = pixels / (treatment.how.steps * mean)
    return _told(len(source) / a_second / 60, a_second, "images", len(source))


def _sizes(source: Source) -> list[tuple[int, int]]:
    """Height and width of images spread over a data set, by their headers; none where the first cannot be read."""
    found = []
    for row in spread(source):
        form = None if row.absent else form_of(row.data)
        if form is not None:
            found.append(row.size_after(*form[0]))
        elif not found:  # which the work will say
            return []
    return found


def _images_per_s(work: Callable[[int], Any], batch: int) -> float:
    """Images a second of a batch, or of a few images where a batch would take long, after some that warm up.

    The first batch of a size takes longer than the others, for which its kernels are there.
    """
    few = min(_FEW, batch)
    work(few)
    size, seconds = few, _seconds(work, few)
    if seconds * batch < _LONG_S * few:
        size, seconds = batch, _seconds(work, batch)
        if seconds < _SHORT_S:
            seconds = min(seconds, _seconds(work, batch))
    return size / seconds


def _seconds(work: Callable[[int], Any], size: int) -> float:
    began = time.perf_counter()
    work(size)
    return time.perf_counter() - began


def _told(minutes: float, a_second: float, what: str, count: int) -> str:
    return f"{duration(minutes)}: {count:,} {what} at {a_second:,.3g} a second, measured on two batches"
