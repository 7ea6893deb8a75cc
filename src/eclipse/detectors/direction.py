"""Direction of errors: a victim of the raw rows takes the images of one class for those of one other."""

import math

import numpy as np
from numpy.typing import NDArray

from eclipse.detectors.detector import Detector, Finding
from eclipse.detectors.evidence import Evidence

_MARGIN, _FEWEST = 0.05, 20
_DISTINCT = 0.6  # of the classes that are mistaken for others: the share of these others that differ


class Direction(Detector):
    """Whether the victim's errors on trusted images go from each class to one other.

    Error-maximizing poisons give the images of a class the features of another (TAP: of the next one), so that a victim
    takes clean images of the other for the class. What two networks of purified rows mistake for each other counts off.
    """

    title = "a victim takes clean images of a class for those of one other"
    needs = frozenset({"labels", "trusted"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare what the victim says of trusted images with what networks of purified rows say."""
        assert evidence.trusted is not None and evidence.trusted_purified is not None
        strong, again = (
            reader(evidence.trusted_purified).argmax(1) for reader in (evidence.content, evidence.content_again)
        )
        weak, classes = evidence.raw(evidence.trusted).argmax(1), evidence.data.num_classes
        ours, theirs = _mistaken(strong, weak, classes), _mistaken(strong, again, classes)
        found = [label for label in ours if label in theirs]
        share = sum(ours[label][0] - theirs[label][0] for label in found) / max(1, len(found))
        shares = [told[label][:2] for told in (ours, theirs) for label in found]
        variance = sum(p * (1 - p) / n + 1 / n**2 for p, n in shares)
        to = {ours[label][2] for label in found}
        directed = len(found) > 2 and len(to) >= _DISTINCT * len(found)
        mean = sum(ours[label][0] for label in found) / max(1, len(found))
        return Finding(
            share,
            (_MARGIN, math.sqrt(variance) / max(1, len(found)) or 1.0),
            f"of the clean images of a class a victim takes {mean:.0%} for those of one other",
            family="error-maximizing" if directed else None,
            details={"mistaken": mean, "others": len(to)},
        )


def _mistaken(strong: NDArray[np.int64], weak: NDArray[np.int64], classes: int) -> dict[int, tuple[float, int, int]]:
    """By class: the share that is taken for the one other that is named most, of how many, and which."""
    found = {}
    for label in range(classes):
        said = weak[strong == label]
        if len(said) >= _FEWEST:
            counts = np.bincount(said[said != label], minlength=classes)
            found[label] = (float(counts.max() / len(said)), len(said), int(counts.argmax()))
    return found
