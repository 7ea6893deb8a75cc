"""Harm: what a quick victim learns from the set does not hold on clean images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.detectors.detector import Detector, Finding, Hits, excess
from eclipse.detectors.evidence import Evidence

_MARGIN, _TRUSTED_MARGIN = 0.03, 0.04


class Harm(Detector):
    """Whether a victim of the raw rows falls behind on purified ones.

    On purified rows that neither has seen, a victim of raw rows is compared with one of purified rows. From a clean set
    both learn the same, but for what purification changes in it; from a poisoned one the first learns the poison.
    """

    title = "a victim of the raw images fails on purified ones"
    needs = frozenset({"labels"})

    def examine(self, evidence: Evidence) -> Finding:
        """Compare the two."""
        held = evidence.purified[np.flatnonzero(~evidence.fold)]
        labels = evidence.labels[~evidence.fold]
        raw, content = (reader(held).argmax(1) == labels for reader in (evidence.raw, evidence.content))
        statistic, null = excess(content, raw, _MARGIN)
        words = (
            f"on purified images a victim of the images as they are is right on {raw.mean():.0%}, "
            f"one of purified images on {content.mean():.0%}"
        )
        return Finding(statistic, null, words, details={"raw": float(raw.mean()), "purified": float(content.mean())})


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
        statistic, null = max(found, key=lambda pair: (pair[0] - pair[1][0]) / pair[1][1])
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
    error = float(np.sqrt(here.var() / len(here) + there.var() / len(there)))
    return float(here.mean() - there.mean()), (_TRUSTED_MARGIN, max(error, 1e-3))
