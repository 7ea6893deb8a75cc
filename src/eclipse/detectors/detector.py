"""What a detector is, and what it finds."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eclipse.detectors.evidence import Evidence

Hits = NDArray[np.bool_]

_MARGIN = 0.01  # by which a reading of a clean set may be above the content's


@dataclass(frozen=True, eq=False)
class Finding:
    """The answer of a detector.

    Attributes:
        statistic: what was measured; larger is more suspicious.
        null: mean and standard deviation of the statistic on a clean set of this kind, normal by the central limit
            theorem; the mean includes the margin that clean sets may have.
        words: what was seen, in a sentence.
        family: the kind of poison that it points at; None where it points at none.
        scores: of each row, in [0, 1], how much speaks for its being poisoned; None where rows cannot be told apart.
        share: of the rows that are poisoned, the least and the largest that the reading allows.
        looks: how many statistics it is the largest of, for which its p-value is corrected.
        details: further figures.
    """

    statistic: float
    null: tuple[float, float]
    words: str
    family: str | None = None
    scores: NDArray[np.float64] | None = None
    share: tuple[float, float] | None = None
    looks: int = 1
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def p_value(self) -> float:
        """The share of clean sets of this kind that come as far, in [0, 1]."""
        return min(1.0, self.looks * 0.5 * math.erfc(self.z / math.sqrt(2)))

    def to_dict(self) -> dict[str, Any]:
        """What JSON has of it: all but the scores of rows."""
        return {
            "statistic": round(self.statistic, 4),
            "null": [round(value, 4) for value in self.null],
            "z": round(self.z, 2),
            "p": float(f"{self.p_value:.3g}"),
            "words": self.words,
            "family": self.family,
            "share": self.share,
            "details": dict(self.details),
        }

    @property
    def z(self) -> float:
        """How far the statistic lies above its null, in standard deviations."""
        return z_of(self.statistic, self.null)


def z_of(statistic: float, null: tuple[float, float]) -> float:
    """How far a statistic lies above its null, in standard deviations."""
    return (statistic - null[0]) / null[1]


class Detector(ABC):
    """The base of all detectors.

    Attributes:
        title: what it asks, in a few words.
        needs: what it cannot do without: ``labels`` of the suspicious set, ``trusted`` images.
        implicates: its finding has to do with labels, so that it alone makes a set suspicious.
    """

    title: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    implicates: ClassVar[bool] = True

    @abstractmethod
    def examine(self, evidence: Evidence) -> Finding:
        """Ask the question of a set.

        Raises:
            EclipseError: the set cannot carry an answer.
        """


def excess(ours: Hits, theirs: Hits, margin: float) -> tuple[float, tuple[float, float]]:
    """By how much one reader of the same rows is right more often than another, and the null of that.

    Args:
        ours: of each row, whether the reader was right, (N,).
        theirs: the same of the other.
        margin: the excess that a clean set may have.

    Returns:
        The excess, in [-1, 1]; mean and standard deviation of the paired difference at the edge of the null.
    """
    difference = ours.astype(np.float64) - theirs
    return float(difference.mean()), (margin, standard_error(difference))


def clearest(
    evidence: Evidence, read: dict[str, NDArray[np.float32]], reader: str, family: Callable[[Evidence], str]
) -> Finding:
    """The reading that is furthest above the network's of the purified images.

    Args:
        evidence: the set.
        read: by the name of a reading, the probabilities of all classes, (N, classes).
        reader: what read, in words.
        family: tells what it points at, if it is above.
    """
    content = evidence.right(evidence.in_content)
    tests = {name: excess(evidence.right(found), content, _MARGIN) for name, found in read.items()}
    best = max(tests, key=lambda name: z_of(*tests[name]))
    hits = evidence.right(read[best])
    rows = np.arange(len(hits))
    accuracy, least = float(hits.mean()), float(content.mean())
    return Finding(
        *tests[best],
        words=f"{reader} reads {hits.mean():.0%} of held-out labels, a network of purified images {content.mean():.0%}",
        family=family(evidence) if z_of(*tests[best]) > 0 else None,
        scores=read[best][rows, evidence.labels].astype(np.float64),
        share=_share(accuracy, least, evidence.data.num_classes),
        details={
            **{name: float(evidence.right(found).mean()) for name, found in read.items()},
            "content": float(content.mean()),
        },
    )


def _share(accuracy: float, content: float, classes: int) -> tuple[float, float]:
    """The share of rows that carry what a reading reads: all other rows are read as well as the content, or by chance.

    Args:
        accuracy: of the reading, which reads poisoned rows rightly.
        content: accuracy of a network of the content.
        classes: how many there are.
    """
    least, most = (max(0.0, (accuracy - base) / max(1 - base, 1e-6)) for base in (content, 1 / classes))
    return round(min(least, most), 3), round(max(least, most), 3)


def standard_error(values: NDArray[np.float64]) -> float:
    """The standard error of a mean; never below that of a single row that differs."""
    return max(float(values.std()), 1 / math.sqrt(len(values))) / math.sqrt(len(values))
