"""What lies between two sets of images: how large the changes are, where in the spectrum, how alike in a class."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from eclipse.errors import unknown

BANDS = (4, 8, 12)
"""Where the bands of the spectrum meet, in cycles an image at 32x32, which is cycles per 32 pixels at other sizes."""

CHUNK_VALUES = 2**22  # float32 values worked on at once: 16 MB an array, 1,365 images of 3x32x32
_CLASS_VALUES = 2**26  # kept to tell how class-wise changes are: 256 MiB, 100 classes of 3x473x473

Change: TypeAlias = NDArray[np.int16]
"""In levels, (C, H, W)."""


def chunks(images: NDArray[np.uint8]) -> Iterator[slice]:
    """Cut the rows of (N, C, H, W) into slices that can be worked on in float32 in bounded memory."""
    step = max(1, CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def l2(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The L2 norm of each row of (N, ...)."""
    # In float64 the order of the sum, which differs between chunks, cannot move a rounded pixel.
    squares: NDArray[np.float64] = np.square(values.reshape(len(values), -1), dtype=np.float64).sum(axis=1)
    return np.sqrt(squares)


def _largest(change: NDArray[np.int16]) -> NDArray[np.float64]:
    axes = (1, 2, 3)
    largest: NDArray[np.float64] = np.maximum(change.max(axis=axes), -change.min(axis=axes)) / 255
    return largest


def _length(change: NDArray[np.int16]) -> NDArray[np.float64]:
    """The L2 norm; of large images part by part, since they would take sixteen bytes a value."""
    values = change.reshape(len(change), -1)
    parts = [l2(values[:, first : first + CHUNK_VALUES] / 255) for first in range(0, values.shape[1], CHUNK_VALUES)]
    return parts[0] if len(parts) == 1 else l2(np.stack(parts, axis=1))


NORMS: dict[str, Callable[[NDArray[np.int16]], NDArray[np.float64]]] = {
    "Linf": _largest,
    "L2": _length,
    "L0": lambda change: change.any(axis=1).sum(axis=(1, 2)).astype(np.float64),
    "none": _largest,
}
"""From changes in levels, (N, C, H, W), to their sizes: pixels for L0, else on the [0, 1] scale."""


def size(change: NDArray[np.int16], norm: str) -> NDArray[np.float64]:
    """The norm of each row of a change in levels, (N, C, H, W): a name in ``NORMS``.

    Raises:
        EclipseError: no such norm.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    return NORMS[norm](change)


def measure(clean: NDArray[np.uint8], poisoned: NDArray[np.uint8], norm: str) -> NDArray[np.float64]:
    """The norm of each image's change as it is stored, (N,), in bounded memory; see ``size``."""
    sizes = np.empty(len(clean))
    for rows in chunks(clean):
        sizes[rows] = size(poisoned[rows].astype(np.int16) - clean[rows], norm)
    return sizes


def length_in_words(norm: str, length: float) -> str:
    """A length in a norm: levels for ``Linf`` and ``none``, pixels for ``L0``."""
    if norm == "L2":
        return f"{length:.3g}"
    if norm == "L0":
        return f"{length:g} pixel{'' if length == 1 else 's'}"
    return f"{length * 255:.4g} levels"


@dataclass(frozen=True)
class Spread:
    """The least, the median and the largest of a figure of each image."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Spread":
        """That of the figures of all images."""
        return cls(float(values.min()), float(np.median(values)), float(values.max()))

    def describe(self, digits: int) -> str:
        """The three in words."""
        return f"min {self.least:.{digits}f}, median {self.median:.{digits}f}, max {self.most:.{digits}f}"


class Sizes:
    """The sizes of changes in one norm, a name in ``NORMS``."""

    def __init__(self, norm: str) -> None:
        self.norm, self._sizes = norm, array("d")

    def add(self, change: Change) -> None:
        """Measure a change."""
        self._sizes.append(float(size(change[None], self.norm)[0]))

    @property
    def values(self) -> NDArray[np.float64]:
        """All of them: pixels for L0, else on the [0, 1] scale."""
        return np.asarray(self._sizes)


@dataclass(frozen=True)
class Figures:
    """What is known of the changes of a set.

    Attributes:
        linf: largest change of a value in each image, in levels.
        l2: L2 norm of the change of each image on the [0, 1] scale.
        l0: changed pixels of each image.
        shift: mean signed change of all values, in levels; about -0.5 where noise was truncated and not rounded.
        clipped: share of the changed values that are now 0 or 255.
        unchanged: share of the images that nothing was done to.
        class_constancy: share of the energy of the changes that the mean change of each class explains: 1 for
            class-wise noise, about classes/images for noise drawn for each image. None where images differ in size or
            have no labels, nothing was changed, or the means would take too much memory.
        spectrum: share of the energy below, between and above ``BANDS``; None where images differ in size or nothing
            was changed.
    """

    linf: Spread
    l2: Spread
    l0: Spread
    shift: float
    clipped: float
    unchanged: float
    class_constancy: float | None
    spectrum: tuple[float, ...] | None


class Changes:
    """Gathers the figures of changes, a few numbers of each, in bounded memory."""

    def __init__(self) -> None:
        self._linf, self._l2, self._l0 = Sizes("Linf"), Sizes("L2"), Sizes("L0")
        self._sum = self._values = self._changed = self._clipped = 0
        self._means, self._spectrum = ClassMeans(), Spectrum()

    def add(self, change: Change, after: NDArray[np.uint8], label: int | None) -> None:
        """Count the change of an image to what it is now, and its class where that is known."""
        for sizes in (self._linf, self._l2, self._l0):
            sizes.add(change)
        changed = change != 0
        self._sum += int(change.sum(dtype=np.int64))
        self._values += change.size
        self._changed += int(changed.sum())
        self._clipped += int((changed & ((after == 0) | (after == 255))).sum())
        self._means.add(change, label)
        self._spectrum.add(change)

    def figures(self) -> Figures:
        """Those of all changes so far."""
        return Figures(
            linf=Spread.of(np.rint(self._linf.values * 255)),
            l2=Spread.of(self._l2.values),
            l0=Spread.of(self._l0.values),
            shift=self._sum / self._values,
            clipped=self._clipped / max(1, self._changed),
            unchanged=float((self._l0.values == 0).mean()),
            class_constancy=self._means.share(),
            spectrum=self._spectrum.shares(),
        )


class ClassMeans:
    """The mean change of each class; gives up on a second size, a row without a label, or too many classes."""

    def __init__(self) -> None:
        self._totals: dict[int, NDArray[np.int32]] = {}
        self._counts: Counter[int] = Counter()
        self._shape: tuple[int, ...] | None = None
        self._energy = 0
        self._given_up = False

    def add(self, change: Change, label: int | None) -> None:
        """Count the change of a row with this label."""
        self._shape = self._shape or change.shape
        new = label not in self._totals
        too_large = (len(self._totals) + new) * change.size > _CLASS_VALUES
        self._given_up |= label is None or change.shape != self._shape or too_large
        if label is None or self._given_up:
            self._totals.clear()
            return
        self._energy += int(np.square(change, dtype=np.int64).sum())
        self._counts[label] += 1
        self._totals[label] = change.astype(np.int32) if new else self._totals[label] + change

    @property
    def counts(self) -> Mapping[int, int]:
        """How many rows of each class were counted; of none where it gave up."""
        return {} if self._given_up else self._counts

    def mean(self, label: int) -> NDArray[np.float64]:
        """The mean change of a class, in levels."""
        return self._totals[label] / self._counts[label]

    def share(self) -> float | None:
        """The share of the energy that the means explain."""
        if self._given_up or not self._energy:
            return None
        explained = (np.square(total, dtype=np.float64).sum() / self._counts[c] for c, total in self._totals.items())
        return float(sum(explained)) / self._energy


class Spectrum:
    """The energy of changes by frequency; gives up on a second size."""

    def __init__(self) -> None:
        self._power: NDArray[np.float64] | None = None
        self._shape = (0, 0)
        self._given_up = False

    def add(self, change: Change) -> None:
        """Count a change."""
        if self._power is None:
            _, height, width = change.shape
            self._shape = height, width
            self._power = np.zeros((height, width // 2 + 1))  # the other half is its mirror image
        self._given_up |= change.shape[1:] != self._shape
        if not self._given_up:
            for plane in change:
                self._add(plane, self._power)

    def _add(self, plane: NDArray[np.int16], power: NDArray[np.float64]) -> None:
        """Transform rows, then columns, a part at a time: images may be large."""
        height, width = power.shape
        half: NDArray[np.complex128] = np.empty((height, width), np.complex128)
        rows, columns = max(1, CHUNK_VALUES // width), max(1, CHUNK_VALUES // height)
        for top in range(0, height, rows):
            half[top : top + rows] = np.fft.rfft(plane[top : top + rows])
        for left in range(0, width, columns):
            part = slice(left, left + columns)
            power[:, part] += np.square(np.abs(np.fft.fft(half[:, part], axis=0)))

    def shares(self) -> tuple[float, ...] | None:
        """The shares of the energy between ``BANDS``."""
        if self._given_up or self._power is None or not self._power.any():
            return None
        height, width = self._shape
        frequency = 32 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
        band = np.digitize(frequency, BANDS)
        both = self._power.copy()
        both[:, 1 : (width + 1) // 2] *= 2
        return tuple(float(both[band == i].sum() / both.sum()) for i in range(len(BANDS) + 1))
