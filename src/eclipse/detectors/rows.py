"""Part of the rows: one class, or a share of all rows, is read better than its content allows."""

import numpy as np

from eclipse.detectors.detector import Detector, Finding, Hits, excess, z_of
from eclipse.detectors.evidence import Evidence, Probabilities

_MARGIN, _CLASS_MARGIN = 0.05, 0.1
_CONFIDENT = 0.1  # share of the rows
_FEWEST = 30


class PartOfTheRows(Detector):
    """Whether there are rows, or classes, of which a reading that should see little sees more than the content shows.

    Where few rows are poisoned, no reading beats the content on all rows. But those rows of which it is surest are
    poisoned ones, and it is right on them more often than a network of the content on those of which that is surest.
    And in one poisoned class it is right on what has to do with this class.
    """

    title = "a part of the rows, or one class, is read too well"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Look at the surest rows, and at each class by itself; the clearest counts, for the number of looks."""
        readings = {
            "residual": evidence.in_residual,
            "residual, linear": evidence.in_flat_residual,
            "pixels, linear": evidence.in_pixels,
            "spectrum": evidence.in_spectrum,
        }
        looks, of = dict[str, tuple[float, tuple[float, float]]](), dict[str, str]()
        for name, read in readings.items():
            looks[f"the surest rows, {name}"] = _surest(evidence, read)
            of[f"the surest rows, {name}"] = name
            for label, words in enumerate(evidence.data.class_names or map(str, range(evidence.data.num_classes))):
                if (found := _in_class(evidence, read, label)) is not None:
                    looks[f"class {words}, {name}"] = found
                    of[f"class {words}, {name}"] = name
        best = max(looks, key=lambda look: z_of(*looks[look]))
        scores = readings[of[best]][np.arange(len(evidence.labels)), evidence.labels].astype(np.float64)
        return Finding(
            *looks[best],
            f"{best}: read better than the content by {looks[best][0]:.0%}",
            scores=scores,
            looks=len(looks),
            details={k: round(v[0], 3) for k, v in looks.items() if z_of(*v) > 3},
        )


def _surest(evidence: Evidence, read: Probabilities) -> tuple[float, tuple[float, float]]:
    """How much more often a reading is right than the content's, each on the rows of which it is surest."""
    count = max(_FEWEST, round(_CONFIDENT * len(read)))
    ours, theirs = (_right_on_surest(evidence, found, count) for found in (read, evidence.in_content))
    error = np.sqrt(max(ours.var(), 1 / count) / count + theirs.var() / count)
    return float(ours.mean() - theirs.mean()), (_MARGIN, float(error))


def _right_on_surest(evidence: Evidence, read: Probabilities, count: int) -> Hits:
    return evidence.right(read)[np.argsort(-read.max(1), kind="stable")[:count]]


def _in_class(evidence: Evidence, read: Probabilities, label: int) -> tuple[float, tuple[float, float]] | None:
    """How much more often a reading tells a class from the others, among the rows in question."""
    truth = evidence.labels == label
    ours, theirs = (found.argmax(1) == label for found in (read, evidence.in_content))
    rows = truth | ours | theirs
    if truth.sum() < _FEWEST:
        return None
    return excess((ours == truth)[rows], (theirs == truth)[rows], _CLASS_MARGIN)
