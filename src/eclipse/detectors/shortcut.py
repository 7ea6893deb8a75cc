"""Shortcuts: a linear model reads the labels better than a network reads them in the purified images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eclipse.detectors.detector import Detector, Finding, excess, z_of
from eclipse.detectors.evidence import Evidence, flat
from eclipse.detectors.family import pattern

MARGIN = 0.01
_COARSE = 8  # pixels a side of a reduced copy


class Shortcut(Detector):
    """Whether simple models of raw pixels, and of reduced copies, read what a network does not see in the content.

    Zhu, Yu & Gao ("Detection and Defense of Unlearnable Examples", AAAI 2024) call a set unlearnable where a linear
    model is right on more than 0.7 of held-out rows, which easy clean sets pass. Here it has to be right more often
    than a convolutional network on what purification leaves, by a paired test.
    """

    title = "a linear model reads the labels better than a network"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare the two on held-out rows."""
        read = {
            "linear": evidence.read(flat(evidence.data.images)),
            "coarse": evidence.read(coarse(evidence.data.images)),
        }
        return clearest(evidence, read, "a linear model of pixels", pattern)


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
    tests = {name: excess(evidence.right(found), content, MARGIN) for name, found in read.items()}
    best = max(tests, key=lambda name: z_of(*tests[name]))
    hits = evidence.right(read[best])
    rows = np.arange(len(hits))
    accuracy, least = float(hits.mean()), float(content.mean())
    return Finding(
        *tests[best],
        words=f"{reader} reads {hits.mean():.0%} of held-out labels, a network of purified images {content.mean():.0%}",
        family=family(evidence) if z_of(*tests[best]) > 0 else None,
        scores=read[best][rows, evidence.labels].astype(np.float64),
        share=share(accuracy, least, evidence.data.num_classes),
        details={
            **{name: float(evidence.right(found).mean()) for name, found in read.items()},
            "content": float(content.mean()),
        },
    )


def share(accuracy: float, content: float, classes: int) -> tuple[float, float]:
    """The share of rows that carry what a reading reads: all other rows are read as well as the content, or by chance.

    Args:
        accuracy: of the reading, which reads poisoned rows rightly.
        content: accuracy of a network of the content.
        classes: how many there are.
    """
    least, most = (max(0.0, (accuracy - base) / max(1 - base, 1e-6)) for base in (content, 1 / classes))
    return round(min(least, most), 3), round(max(least, most), 3)


def coarse(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduced copies of images (N, C, H, W) as features, (N, F)."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    small = adaptive_avg_pool2d(torch.from_numpy(images).float(), _COARSE)
    found: NDArray[np.float32] = small.flatten(1).numpy()
    return found
