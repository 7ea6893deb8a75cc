"""Choosing a treatment: quick victims under each candidate, judged on trusted images, with labels or without."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eclipse.classifiers.fit import logits
from eclipse.compute.randomness import some_rows
from eclipse.data.imageset import ImageSet
from eclipse.defenses import DEFENSES
from eclipse.defenses.defense import Defense
from eclipse.defenses.victim import train_victim
from eclipse.detectors.evidence import quick
from eclipse.runs.state import State, Work

Votes = NDArray[np.int64]
"""The class that each victim gives to each trusted image, (victims, N)."""

CANDIDATES = (
    "none",
    "iss-j",
    "iss-g",
    "eclipse-general parts=A sigma=8",
    "eclipse-general parts=A sigma=12",
    "eclipse-general parts=A sigma=20",
    "eclipse-general parts=A",
    "eclipse-general parts=A steps=4",
    "eclipse-general parts=AB",
    "eclipse-general",
)
"""Treatments as people give them: the name of a defense, and parameters that differ."""
ROWS, TRUSTED, SEEDS = 3_000, 2_000, (0, 1)
"""Rows that victims are trained on, trusted images that they are judged on, and their seeds."""
FEWEST_LABELS = 50


@dataclass(frozen=True)
class Candidate:
    """A treatment that was tried.

    Attributes:
        words: as it was given.
        accuracy: on trusted images, in [0, 1], measured where labels are known, else estimated.
        error: the standard error of that.
    """

    words: str
    accuracy: float
    error: float


@dataclass(frozen=True)
class Choice:
    """Candidates, best first.

    Attributes:
        ranked: all of them.
        labels: of how many trusted images labels were known; 0 where accuracies are estimated.
        votes: of every victim on every trusted image.
        candidates: in the order of the votes.
    """

    ranked: tuple[Candidate, ...]
    labels: int
    votes: Votes
    candidates: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """Of those within a standard error of the first, the one given first: ``CANDIDATES`` begin with simple ones."""
        first = self.ranked[0]
        near = [
            tried for tried in self.ranked if first.accuracy - tried.accuracy <= math.hypot(first.error, tried.error)
        ]
        return min(near, key=lambda tried: self.candidates.index(tried.words))

    @property
    def sure(self) -> bool:
        """Whether the best is better than the second by more than two standard errors."""
        if len(self.ranked) < 2:
            return True
        first, second = self.ranked[:2]
        return first.accuracy - second.accuracy > 2 * math.hypot(first.error, second.error)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "ranked": [asdict(candidate) for candidate in self.ranked],
            "best": self.best.words,
            "labels": self.labels,
            "sure": self.sure,
            "candidates": list(self.candidates),
        }


def treatment(words: str) -> Defense:
    """Build a candidate from its words, such as ``eclipse-general parts=A sigma=12``.

    Raises:
        EclipseError: no such defense or parameter.
    """
    name, *settings = words.split()
    found: Defense = DEFENSES.asked(name, "small", settings)
    return found


def choose(
    data: ImageSet,
    trusted: ImageSet,
    work: Work,
    *,
    candidates: Sequence[str] = CANDIDATES,
    labels: int | None = None,
) -> Choice:
    """Try treatments with quick victims, and rank them by their accuracy on trusted images.

    Args:
        data: the suspicious set, with labels.
        trusted: clean images of the same size.
        work: its seed decides rows and victims; its state keeps what victims say, so that a killed choice goes on.
        candidates: treatments, see ``treatment``.
        labels: how many labels of trusted images may be used; by default all, where they have labels.

    Raises:
        EclipseError: a candidate that there is not, or sets that do not fit.
    """
    defenses = [treatment(words) for words in candidates]
    part = data[some_rows(len(data), ROWS, work.seed)]
    judges = trusted[judging(len(trusted), work.seed)]
    votes = np.stack(
        [
            _vote(part, trusted, judges, words, defense, seed, work)
            for words, defense in zip(candidates, defenses, strict=True)
            for seed in SEEDS
        ]
    )
    known = np.sort(np.random.default_rng(work.seed).permutation(len(judges))[:labels])
    if judges.labels is None or (labels is not None and len(known) < FEWEST_LABELS):
        return rank(votes, candidates, data.num_classes)
    return rank(votes, candidates, data.num_classes, known, judges.labels[known])


def judging(trusted: int, seed: int) -> NDArray[np.intp]:
    """The trusted images, of so many, that victims are judged on, in order; sets are often sorted by class."""
    return some_rows(trusted, TRUSTED, seed)


def rank(
    votes: Votes,
    candidates: Sequence[str],
    classes: int,
    known: NDArray[np.intp] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> Choice:
    """Rank candidates by what their victims say.

    Args:
        votes: of the victims, those of one candidate beside each other.
        candidates: in that order.
        classes: how many there are.
        known: trusted images whose labels are known; None to estimate accuracies without any.
        labels: of these.
    """
    if known is None or labels is None:
        found = _estimated(votes, classes)
    else:
        right = (votes[:, known] == labels).reshape(len(candidates), -1)
        found = [(float(row.mean()), float(row.std() / math.sqrt(len(known)))) for row in right]
    tried = [Candidate(words, *figures) for words, figures in zip(candidates, found, strict=True)]
    ranked = sorted(tried, key=lambda candidate: -candidate.accuracy)
    return Choice(tuple(ranked), 0 if known is None else len(known), votes, tuple(candidates))


def _vote(
    part: ImageSet, trusted: ImageSet, judges: ImageSet, words: str, defense: Defense, seed: int, work: Work
) -> NDArray[np.int64]:
    stage = f"{words} {seed}"
    if found := work.state.load(stage):
        return found[0]["votes"].numpy()
    prepared = defense.prepare(part, trusted if defense.needs() != "nothing" else None, replace(work, state=State()))
    recipe = quick(len(part))
    network = train_victim(prepared, part[slice(0, 500)], defense, "small", recipe, Work(seed + 1, work.device)).network
    votes = logits(network, judges, device=work.device).argmax(1)
    work.state.save(stage, {"votes": votes}, {})
    work.state.tell(stage, 1, 1)
    return votes.numpy()


def _estimated(votes: Votes, classes: int) -> list[tuple[float, float]]:
    """The accuracy of each candidate without labels, from whom its victims agree with.

    Dawid & Skene ("Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", 1979) with one
    accuracy for each victim: labels are what the more accurate victims agree on, accuracy is agreement with the labels.
    Victims of one candidate share their errors, so they have one vote each of a half.
    """
    one_hot, agreement = np.eye(classes)[votes], np.full(votes.shape, 0.5)
    for _ in range(50):
        accuracy = agreement.mean(1).clip(1e-3, 1 - 1e-3)
        odds = np.log(accuracy * (classes - 1) / (1 - accuracy))
        scores = np.einsum("vnc,v->nc", one_hot, 0.5 * odds)
        belief = np.exp(scores - scores.max(1, keepdims=True))
        belief /= belief.sum(1, keepdims=True)
        agreement = np.einsum("vnc,nc->vn", one_hot, belief)
    each = agreement.reshape(-1, len(SEEDS) * votes.shape[1])
    return [(float(row.mean()), float(row.std() / math.sqrt(votes.shape[1]))) for row in each]


def labels_worth_most(votes: Votes, count: int) -> NDArray[np.intp]:
    """The trusted images on which victims of different treatments disagree most: their labels tell these apart."""
    each = votes.reshape(-1, len(SEEDS), votes.shape[1])[:, 0]
    disagreement = np.array([len(np.unique(column)) for column in each.T])
    return np.sort(np.argsort(-disagreement, kind="stable")[:count])
