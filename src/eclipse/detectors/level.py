"""The lowest noise level after which labels are not read better than after the strongest: ``--sigma auto``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eclipse.compute.randomness import some_rows
from eclipse.data.imageset import ImageSet
from eclipse.detectors.audit import FEWEST, check_rows, numbered
from eclipse.detectors.evidence import Evidence, Reader
from eclipse.detectors.features import coarse, flat, spectrum
from eclipse.purification.arrays import purify
from eclipse.runs.state import Work

LEVELS = (8.0, 12.0, 16.0, 20.0, 26.0, 32.0)
"""That are tried, in 8-bit levels; the last one is the strongest."""
MARGIN = 0.06
"""By how much a reading may be above its floor: what linear readings of clean images are, and their error."""
PIXELS = 3_000 * 32 * 32
"""That are looked at in all."""


@dataclass(frozen=True)
class Reading:
    """What can be read in images that were purified at a level.

    Attributes:
        sigma: the level, as a standard deviation on the [0, 1] scale.
        read: by the name of a reading, the share of held-out labels that it reads.
        floor: the same after the strongest purification.
    """

    sigma: float
    read: Mapping[str, float]
    floor: Mapping[str, float]

    @property
    def clearest(self) -> str:
        """The reading that is furthest above its floor."""
        return max(self.read, key=self._excess)

    @property
    def quiet(self) -> bool:
        """Whether all have fallen to their floors, but for the margin of clean sets."""
        return self._excess(self.clearest) <= MARGIN

    def words(self) -> str:
        """What is read, for people."""
        name = self.clearest
        return f"{name} tell {self.read[name]:.0%} of labels, and {self.floor[name]:.0%} after the strongest one"

    def _excess(self, name: str) -> float:
        return self.read[name] - self.floor[name]


def lowest_level(data: ImageSet, work: Work, levels: Sequence[float] = LEVELS) -> tuple[Reading, ...]:
    """Read the labels of purified images at rising levels, up to the first at which all readings are at their floors.

    At each level a linear model reads pixels, reduced copies and spectra of the purified images, and a quick network
    what a further, strong purification takes away from them. Linear models read the content alike after all levels, so
    that what they read better after a weak purification than after the strongest is what the weak one leaves of a
    poison. The network reads more of the content, too, the weaker the first purification: it errs to higher levels.

    Args:
        data: images with labels; as many as ``PIXELS`` allows are looked at, in a random order.
        work: its seed decides rows, noise and networks.
        levels: rising, in 8-bit levels.

    Returns:
        The readings of the levels that were tried, of which the last is that of the level to take.

    Raises:
        EclipseError: no labels, a single class, too few rows: what no level can be read from.
    """
    check_rows(len(data))
    data.require_labels("the choice of a noise level")
    most = max(FEWEST, PIXELS // (data.images.shape[2] * data.images.shape[3]))
    evidence = Evidence(numbered(data[some_rows(len(data), most, work.seed)]), None, work)
    left = _left(evidence, levels[-1])
    floor = {**_simple(evidence, left), **_network(evidence, left, levels[-1])}
    found = list[Reading]()
    for level in levels[:-1]:
        work.state.tell("noise level", len(found) + 1, len(levels))
        left = _left(evidence, level)
        reading = Reading(level / 255, _simple(evidence, left), floor)
        if reading.quiet:  # else the network need not be asked
            reading = Reading(level / 255, {**reading.read, **_network(evidence, left, level)}, floor)
        found.append(reading)
        if reading.quiet:
            return tuple(found)
    return (*found, Reading(levels[-1] / 255, floor, floor))


def _simple(evidence: Evidence, left: ImageSet) -> dict[str, float]:
    """The share of held-out labels that linear models read."""
    images = left.images
    features = {"pixels": flat(images), "reduced copies": coarse(images), "spectra": spectrum(images)}
    return {name: _share(evidence, evidence.read(x)[~evidence.fold]) for name, x in features.items()}


def _network(evidence: Evidence, left: ImageSet, level: float) -> dict[str, float]:
    """The share that a network reads in what is taken away once more."""
    residual = Evidence(left, None, evidence.work).residual
    network = Reader(f"residual at {level:g}", residual[np.flatnonzero(evidence.fold)], evidence.work)
    return {"residuals": _share(evidence, network(residual[np.flatnonzero(~evidence.fold)]))}


def _left(evidence: Evidence, level: float) -> ImageSet:
    data, work = evidence.data, evidence.work
    return data.with_images(purify(data.images, sigma=level / 255, seed=work.seed, ids=data.ids, device=work.device))


def _share(evidence: Evidence, said: NDArray[np.float32]) -> float:
    """Of the held-out rows, those whose label was read."""
    return round(float((said.argmax(1) == evidence.labels[~evidence.fold]).mean()), 4)
