"""The lowest noise level at which purified images carry no shortcut that can be read: the rule of ``--sigma auto``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.detectors.audit import FEWEST, _numbered, check_rows
from eclipse.detectors.class_pattern import spectrum
from eclipse.detectors.evidence import Evidence, Reader
from eclipse.detectors.shortcut import MARGIN, coarse
from eclipse.purification.arrays import purify
from eclipse.runs.state import Work

LEVELS = (8.0, 12.0, 16.0, 20.0, 26.0, 32.0)
"""That are tried, in 8-bit levels."""
PIXELS = 3000 * 32 * 32
"""That are looked at in all."""


@dataclass(frozen=True)
class Reading:
    """What can be read in images that were purified at a level.

    Attributes:
        sigma: the level, as a standard deviation on the [0, 1] scale.
        read: by the name of a reading, the share of held-out labels that it reads.
        content: the share that a network reads in what the strongest purification leaves.
    """

    sigma: float
    read: Mapping[str, float]
    content: float

    @property
    def clearest(self) -> str:
        """The reading that is right most often."""
        return max(self.read, key=lambda name: self.read[name])

    @property
    def quiet(self) -> bool:
        """Whether none reads more than the content tells, but for the margin of clean sets."""
        return self.read[self.clearest] - self.content <= MARGIN

    def words(self) -> str:
        """What is read, for people."""
        return f"{self.clearest} tell {self.read[self.clearest]:.0%} of labels and the content {self.content:.0%}"


def lowest_level(data: ImageSet, work: Work, levels: Sequence[float] = LEVELS) -> tuple[Reading, ...]:
    """Read the labels of purified images at rising levels, up to the first at which nothing speaks of a poison.

    At each level a linear model reads pixels, reduced copies and spectra of the purified images, and a quick network
    what a further, strong purification takes away from them. A poison that purification leaves is read there better
    than the content, which a network reads in strongly purified images.

    Args:
        data: images with labels; as many as ``PIXELS`` allows are looked at, in a random order.
        work: its seed decides rows, noise and networks.
        levels: rising, in 8-bit levels.

    Returns:
        The readings of the levels that were tried; the last one is ``quiet`` where a level was found.

    Raises:
        EclipseError: no labels, a single class, too few rows: what no level can be read from.
    """
    check_rows(len(data))
    data.require_labels("the choice of a noise level")
    most = max(FEWEST, PIXELS // (data.images.shape[2] * data.images.shape[3]))
    rows = np.sort(np.random.default_rng([work.seed, len(data)]).permutation(len(data))[:most])
    evidence = Evidence(_numbered(data[rows]), None, work)
    found = list[Reading]()
    for level in levels:
        found.append(_reading(evidence, level / 255))
        work.state.tell("noise level", len(found), len(levels))
        if found[-1].quiet:
            break
    return tuple(found)


def _reading(evidence: Evidence, sigma: float) -> Reading:
    """What is read at a level; the network is asked only where nothing simpler reads anything."""
    data, work, held = evidence.data, evidence.work, ~evidence.fold
    left = data.with_images(purify(data.images, sigma=sigma, seed=work.seed, ids=data.ids, device=work.device))
    features = {"pixels": _flat(left.images), "reduced copies": coarse(left.images), "spectra": spectrum(left.images)}
    read = {name: _share(evidence, evidence.read(x)[held]) for name, x in features.items()}
    content = _share(evidence, evidence.content(evidence.purified[np.flatnonzero(held)]))
    simple = Reading(sigma, read, content)
    if not simple.quiet:
        return simple
    residual = Evidence(left, None, work).residual
    network = Reader(f"residual at {sigma * 255:g}", residual[np.flatnonzero(evidence.fold)], work)
    read["residuals"] = _share(evidence, network(residual[np.flatnonzero(held)]))
    return Reading(sigma, read, content)


def _share(evidence: Evidence, said: NDArray[np.float32]) -> float:
    """Of the held-out rows, those whose label was read."""
    return round(float((said.argmax(1) == evidence.labels[~evidence.fold]).mean()), 4)


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)
