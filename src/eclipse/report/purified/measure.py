"""What a purification has changed, in numbers, of rows spread over a data set, in one pass and in bounded memory."""

import heapq
import math
import random
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray

from eclipse.data.changes import Change, ClassMeans
from eclipse.data.convert import finder
from eclipse.data.picture import Pixels, middle, size_in_words
from eclipse.data.similarity import psnr, ssim
from eclipse.data.store import Row, Source, comparable_classes
from eclipse.errors import EclipseError
from eclipse.report.page import named

ROWS, PLACES = 2_000, 40
"""How many rows are looked at, and at how many places of the data set, which may be sorted by class."""
FREQUENCIES = 16
"""Bands of the spectrum, each as wide as one cycle in 32 pixels."""
CARDS, CLASS_CARDS = 8, 12
"""Images shown of a kind, and classes of which one is shown."""

_PIXELS = 2**26  # read in all, more or less: 2,000 images of 180x180, 64 of 1024x1024
_FEWEST = 24
_PIECE, _SPECTRUM_PIECE = 512, 256  # sides of the pieces from the middle that are measured of larger images


@dataclass(frozen=True, eq=False)
class Pair:
    """An image before and after.

    Attributes:
        name: its id in the data set, or its row.
        label: the number of its class.
        before: uint8 (3, H, W).
        after: of the same shape.
        change: mean absolute change, in levels.
        psnr: in dB; infinite where nothing was changed.
    """

    name: str
    label: int | None
    before: Pixels
    after: Pixels
    change: float
    psnr: float


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found.

    Attributes:
        rows: how many were looked at.
        images: how many there are.
        class_names: the name of each class, where known.
        sizes: widths and heights of images, the smallest and the largest.
        psnr: of each, in dB, without those that were not changed.
        ssim: of each.
        change: of each, mean absolute change in levels.
        spectrum: the power of what was taken away, in levels squared, by band; NaN for a band without a frequency.
        spectra: the same by class.
        patterns: by class, the mean of what was taken away, in levels, (3, H, W); empty without labels, or where
            images differ in size.
        constancy: the share of what was taken away that these means explain.
        by_chance: the share that they would explain if all images had changed independently.
        cards: what the page shows, by kind, each as ``keep`` made it.
    """

    rows: int
    images: int
    class_names: tuple[str, ...] | None
    sizes: tuple[tuple[int, int], tuple[int, int]]
    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    change: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    spectra: dict[int, NDArray[np.float64]]
    patterns: dict[int, NDArray[np.float64]]
    constancy: float | None
    by_chance: float | None
    cards: dict[str, list[object]]

    def name_of(self, label: int) -> str:
        """The name of a class, or its number."""
        names = self.class_names
        return names[label] if names is not None and 0 <= label < len(names) else str(label)


def measure(source: Source, output: Source, skipped: Collection[str], keep: Callable[[Pair], object]) -> Measured:
    """Compare a data set with its purified copy.

    Args:
        source: the data set.
        output: the copy.
        skipped: the names of the rows that were left out.
        keep: makes of a pair what is kept of it to be shown: in bounded memory, a few kilobytes.

    Raises:
        EclipseError: the two do not fit together, or an image cannot be read.
    """
    quality, spectra, means, images = _Quality(), _Spectra(), ClassMeans(), len(source) - len(skipped)
    sizes = list[tuple[int, int]]()
    planned = rows_to_read(source, images, skipped)
    gallery = _Gallery(sum(map(len, planned)), keep)
    for old, new in _pairs(source, output, skipped, planned):
        before, after = _checked(source, old, output, new)
        sizes.append((before.shape[2], before.shape[1]))
        removed = before.astype(np.int16) - after
        label = old.label if old.label is not None and old.label >= 0 else None
        pair = Pair(named(old.id), label, before, after, *quality.add(before, after))
        spectra.add(removed, label)
        means.add(removed, label)
        gallery.add(pair)
    labels = [label for label, _ in sorted(means.counts.items(), key=lambda item: (-item[1], item[0]))]
    classes = dict(sorted((label, means.mean(label)) for label in labels[: 2 * CARDS]))
    return Measured(
        rows=len(sizes),
        images=images,
        class_names=source.class_names,
        sizes=(min(sizes, key=math.prod), max(sizes, key=math.prod)),
        psnr=np.array([value for value in quality.psnr if math.isfinite(value)]),
        ssim=np.asarray(quality.ssim),
        change=np.asarray(quality.change),
        spectrum=spectra.mean(),
        spectra=spectra.by_class(),
        patterns=classes,
        constancy=means.share(),
        by_chance=len(means.counts) / len(sizes) if means.counts else None,
        cards=gallery.cards(),
    )


def rows_to_read(source: Source, images: int, skipped: Collection[str] = ()) -> list[range]:
    """Places in the sequence of the rows that stay: all, or as many as can be looked at, spread over the set."""
    if images <= 0:
        raise EclipseError(f"no image of {source.spec} was purified; expected at least one to report on")
    first = next(row for row in source.rows() if row.name not in skipped).picture().rgb
    most = min(ROWS, max(_FEWEST, _PIXELS // (first.shape[1] * first.shape[2])))
    if images <= most:
        return [range(images)]
    size = max(1, most // PLACES)
    places = most // size
    starts = (round(place * (images - size) / (places - 1)) for place in range(places))
    return [range(start, start + size) for start in starts]


def _pairs(
    source: Source, output: Source, skipped: Collection[str], planned: Sequence[range]
) -> Iterator[tuple[Row, Row]]:
    """The rows at these places, each with what became of it."""
    left_out = [i for i, row in enumerate(source.rows()) if row.name in skipped] if skipped else []
    if len(left_out) != len(skipped):
        raise EclipseError(f"{len(skipped)} images were left out, and {source.spec} has {len(left_out)} of these now")
    find = finder(output, source)
    for places in planned:
        olds = (row for row in source.rows(_with(left_out, places.start)) if row.name not in skipped)
        if find is not None:
            yield from ((old, find(old.id)) for old in islice(olds, len(places)))
        else:
            yield from zip(islice(olds, len(places)), output.rows(places.start), strict=False)


def _with(left_out: Sequence[int], place: int) -> int:
    """The row at a place among those that stay, where some were left out."""
    return next(row for row in count(place) if row - bisect_left(left_out, row + 1) == place)


def _checked(source: Source, old: Row, output: Source, new: Row) -> tuple[Pixels, Pixels]:
    """The pixels of a row and of what became of it; they must fit together as far as can be told."""
    before, after = old.picture().rgb, new.picture().rgb
    classes = comparable_classes(source, old, output, new) if source.has_labels and output.has_labels else (0, 0)
    keys = [row.id.partition("/")[2] for row in (old, new)] if source.layout == output.layout == "webdataset" else [""]
    if before.shape != after.shape or classes[0] != classes[1] or keys[0] != keys[-1]:
        raise EclipseError(
            f"{new.name} ({size_in_words(after)}) is not what became of {old.name} ({size_in_words(before)}); expected "
            "both data sets as they were when the purification ended"
        )
    return before, after


class _Quality:
    """How near the images are to what they were."""

    def __init__(self) -> None:
        self.psnr, self.ssim, self.change = array("d"), array("d"), array("d")

    def add(self, before: Pixels, after: Pixels) -> tuple[float, float]:
        """Measure a pair; returns its mean absolute change in levels and its PSNR in dB."""
        x, y = (torch.from_numpy(middle(image, _PIECE).astype(np.float32)) for image in (before, after))
        self.psnr.append(psnr(x, y))
        self.ssim.append(ssim(x, y))
        self.change.append(float((x - y).abs().mean(dtype=torch.float64)))
        return self.change[-1], self.psnr[-1]


class _Spectra:
    """The power of changes by frequency, whatever the size of the images, in all and by class."""

    def __init__(self) -> None:
        self._power: dict[int | None, NDArray[np.float64]] = defaultdict(lambda: np.zeros(FREQUENCIES))
        self._number: dict[int | None, NDArray[np.float64]] = defaultdict(lambda: np.zeros(FREQUENCIES))

    def add(self, change: Change, label: int | None) -> None:
        """Count what was taken away from an image."""
        piece = middle(change, _SPECTRUM_PIECE)
        height, width = piece.shape[1:]
        power = np.square(np.abs(np.fft.fft2(piece))).mean(axis=0) / (height * width)
        frequency = 32 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
        band = np.rint(frequency).astype(np.int64).ravel()
        inside = band < FREQUENCIES
        self._power[label] += np.bincount(band[inside], power.ravel()[inside], FREQUENCIES)
        self._number[label] += np.bincount(band[inside], minlength=FREQUENCIES)

    def mean(self) -> NDArray[np.float64]:
        """That of all changes."""
        return _quotient(sum(self._power.values()), sum(self._number.values()))

    def by_class(self) -> dict[int, NDArray[np.float64]]:
        """That of each class, the one with the most unusual spectrum first."""
        found = {c: _quotient(self._power[c], self._number[c]) for c in self._power if c is not None}
        mean = self.mean()

        def distance(label: int) -> float:
            return float(np.nansum(np.abs(np.log((found[label] + 1e-6) / (mean + 1e-6)))))

        return {label: found[label] for label in sorted(found, key=lambda label: (-distance(label), label))}


def _quotient(power: NDArray[np.float64] | int, number: NDArray[np.float64] | int) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(power, np.float64) / np.asarray(number, np.float64)


class _Gallery:
    """What is shown: images drawn by lot, those that changed most, and one of each of some classes."""

    def __init__(self, rows: int, keep: Callable[[Pair], object]) -> None:
        self._keep, self._seen = keep, count()
        self._drawn = set(random.Random(0).sample(range(rows), min(CARDS, rows)))
        self._random = list[object]()
        self._most = list[tuple[float, int, object]]()
        self._classes = dict[int, object]()

    def add(self, pair: Pair) -> None:
        """Look at a pair, and keep it or not."""
        place = next(self._seen)
        if place in self._drawn:
            self._random.append(self._keep(pair))
        if len(self._most) < CARDS or pair.change > self._most[0][0]:
            heapq.heappush(self._most, (pair.change, -place, self._keep(pair)))
            if len(self._most) > CARDS:
                heapq.heappop(self._most)
        if pair.label is not None and pair.label not in self._classes and len(self._classes) < CLASS_CARDS:
            self._classes[pair.label] = self._keep(pair)

    def cards(self) -> dict[str, list[object]]:
        """All that was kept, by kind."""
        most = [card for _, _, card in sorted(self._most, key=lambda kept: (-kept[0], -kept[1]))]
        classes = [self._classes[label] for label in sorted(self._classes)]
        return {"random": self._random, "most changed": most, "one of each class": classes}
