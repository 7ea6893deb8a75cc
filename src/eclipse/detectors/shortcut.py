"""Shortcuts: a linear model reads the labels better than a network reads them in the purified images."""

from eclipse.detectors.detector import Detector, Finding, clearest
from eclipse.detectors.evidence import Evidence
from eclipse.detectors.family import pattern
from eclipse.detectors.features import coarse


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
        read = {"linear": evidence.in_pixels, "coarse": evidence.read(coarse(evidence.data.images))}
        return clearest(evidence, read, "a linear model of pixels", pattern)
