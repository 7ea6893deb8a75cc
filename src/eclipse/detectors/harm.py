"""Harm: what a quick victim learns from the set does not hold on clean images."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.detectors.detector import Detector, Finding, Hits, excess, standard_error, z_of
from eclipse.detectors.evidence import Evidence

_MARGINS = {"purified": 0.03, "gray": 0.1}  # colors tell classes of clean images, too
_TRUSTED_MARGIN = 0.04


class Harm(Detector):
    """Whether a victim of the raw rows falls behind on treated ones.

    On treated rows that neither has seen, a victim of raw rows is compared with one of treated rows. From a clean set
    both learn the same, but for what the treatment changes; from a poisoned one the first learns the poison. Treatments
    are purification and grayscale, which takes some poisons that are made to survive noise.
    """

    title = "a victim of the raw images fails on treated ones"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare the two under each treatment; the clearer one counts."""
        rows = np.flatnonzero(~evidence.fold)
        labels = evidence.labels[rows]
        treated = {"purified": (evidence.purified, evidence.content), "gray": (evidence.gray, evidence.in_gray)}
        right = {
            name: [reader(images[rows]).argmax(1) == labels for reader in (evidence.raw, own)]
            for name, (images, own) in treated.items()
        }
        tests = {name: excess(own, raw, _MARGINS[name]) for name, (raw, own) in right.items()}
        best = max(tests, key=lambda name: z_of(*tests[name]))
        raw, own = (float(hits.mean()) for hits in right[best])
        return Finding(
            *tests[best],
            f"on {best} images a victim of the images as they are is right on {raw:.0%}, one of {best} images on "
            f"{own:.0%}",
            looks=len(tests),
            details={
                f"{name}, {who}": float(hits.mean())
                for name, pair in right.items()
                for who, hits in zip(("raw", "own"), pair, strict=True)
            },
        )


class HarmOnTrusted(Detector):
    """Whether two victims agree less on trusted images than on held-out rows of the set.

    Two victims of different seeds that are trained on the same rows agree on what they have learned. Where set and
    trusted images come from one distribution, they agree as often on both. What trusted images of another origin lower,
    they lower for two victims of purified rows, too, and that counts off.
    """

    title = "two victims agree on the set, and not on trusted images"
    needs = frozenset({"labels", "trusted"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare agreement, and accuracy where trusted images have labels; the clearer one counts."""
        assert evidence.trusted is not None and evidence.trusted_purified is not None
        rows = np.flatnonzero(~evidence.fold)
        held = _said(evidence, evidence.data[rows], evidence.purified[rows])
        trusted = _said(evidence, evidence.trusted, evidence.trusted_purified)
        found = [_difference(_extra(held.agreement), _extra(trusted.agreement))]
        if evidence.trusted.labels is not None:
            found.append(_difference(_extra(held.accuracy), _extra(trusted.accuracy)))
        statistic, null = max(found, key=lambda pair: z_of(*pair))
        shares = [float(said.agreement[0].mean()) for said in (held, trusted)]
        words = f"two victims agree on {shares[0]:.0%} of held-out rows and on {shares[1]:.0%} of trusted images"
        return Finding(statistic, null, words, details={"held out": shares[0], "trusted": shares[1]})


@dataclass(frozen=True)
class _Said:
    """Of images, by victims of raw rows and by those of purified ones: whether two agree, and whether one is right."""

    agreement: tuple[Hits, Hits]
    accuracy: tuple[Hits, Hits]


def _said(evidence: Evidence, raw: ImageSet, purified: ImageSet) -> _Said:
    a, b = (reader(raw).argmax(1) for reader in (evidence.raw, evidence.raw_again))
    c, d = (reader(purified).argmax(1) for reader in (evidence.content, evidence.content_again))
    return _Said((a == b, c == d), (a == raw.labels, c == raw.labels))


def _extra(pair: tuple[Hits, Hits]) -> NDArray[np.float64]:
    return pair[0].astype(np.float64) - pair[1]


def _difference(here: NDArray[np.float64], there: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    error = math.hypot(standard_error(here), standard_error(there))
    return float(here.mean() - there.mean()), (_TRUSTED_MARGIN, error)
