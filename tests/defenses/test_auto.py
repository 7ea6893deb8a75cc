"""Auto: what nothing is found in stays as it is; else the candidate that quick victims speak for is applied."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kit.sets import noisy_set

from eclipse.data.imageset import ImageSet
from eclipse.defenses import auto, choice, make_defense
from eclipse.defenses.auto import Auto
from eclipse.defenses.choice import CANDIDATES, Candidate, Choice, labels_worth_most, rank, treatment
from eclipse.detectors.audit import Audit
from eclipse.detectors.detector import Finding
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

CLEAN = Audit(8, (), {"harm": Finding(0.0, (0.1, 0.01), "")}, {})
POISONED = Audit(8, (), {"harm": Finding(0.9, (0.1, 0.01), "")}, {})


@pytest.fixture
def data() -> ImageSet:
    return noisy_set(8, (3, 16, 16), 2)


def said(monkeypatch: pytest.MonkeyPatch, verdict: Audit, best: str = "iss-g") -> list[ImageSet]:
    """Let the audit say this and the choice that; what trusted images each was given."""
    seen = list[ImageSet]()

    def chosen(data: ImageSet, trusted: ImageSet, work: Work, **asked: object) -> Choice:
        seen.append(trusted)
        return Choice((Candidate(best, 0.6, 0.01),), 0, np.zeros((1, 1), np.int64), (best,))

    monkeypatch.setattr(auto, "audit", lambda data, trusted, work: seen.append(trusted) or verdict)
    monkeypatch.setattr(auto, "choose", chosen)
    return seen


def test_a_set_in_which_nothing_is_found_stays_as_it_is(data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, CLEAN)
    assert Auto().prepare(data, noisy_set(8, (3, 16, 16), 2), Work()).fingerprint() == data.fingerprint()


def test_the_chosen_treatment_is_applied_and_labels_are_used_where_they_may_be(
    data: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = noisy_set(80, (3, 16, 16), 2)
    for defense, labelled in ((Auto(), False), (Auto(labels=50), True)):
        seen = said(monkeypatch, POISONED)
        made = defense.prepare(data, trusted, Work())
        assert made.fingerprint() == make_defense("iss-g").prepare(data, None, Work()).fingerprint()
        assert [images.labels is not None for images in seen] == [False, labelled]


def test_auto_is_a_defense_like_others_and_needs_trusted_images(data: ImageSet) -> None:
    assert make_defense("auto").needs() == "images" and make_defense("auto-labels").needs() == "labelled images"
    assert make_defense("auto").preparation()["candidates"] == list(CANDIDATES)
    with pytest.raises(EclipseError, match="trust"):
        Auto().prepare(data, None, Work())
    with pytest.raises(EclipseError, match="at least 50"):
        Auto(labels=10)


def test_every_candidate_is_a_defense() -> None:
    assert all(treatment(words) for words in CANDIDATES)


def votes(right: list[float], images: int, labels: np.ndarray) -> np.ndarray:
    """Two victims a treatment, each right on a share of the images, else wrong in its own way."""
    rng = np.random.default_rng(0)
    told = [np.where(rng.random(images) < share, labels, rng.integers(0, 4, images)) for share in np.repeat(right, 2)]
    return np.stack(told)


def test_treatments_are_ranked_by_labels_and_without_any() -> None:
    labels = np.random.default_rng(1).integers(0, 4, 1000)
    said_of = votes([0.2, 0.8, 0.5], 1000, labels)
    measured = rank(said_of, ("a", "b", "c"), 4, np.arange(200), labels[:200])
    estimated = rank(said_of, ("a", "b", "c"), 4)
    assert [tried.words for tried in measured.ranked] == [tried.words for tried in estimated.ranked] == ["b", "c", "a"]
    assert (measured.labels, estimated.labels, measured.sure) == (200, 0, True)
    close = rank(votes([0.60, 0.61], 200, labels[:200]), ("a", "b"), 4, np.arange(200), labels[:200])
    assert not close.sure and close.best.words == "a"  # which was given first


def test_labels_are_asked_where_treatments_disagree() -> None:
    said_of = np.zeros((6, 10), np.int64)
    said_of[2:4, [3, 7]] = 1
    assert set(labels_worth_most(said_of, 2)) == {3, 7}


class AlwaysTheFirst(torch.nn.Module):
    """Says the first of four classes of every image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.eye(4)[torch.zeros(len(x), dtype=torch.int64)]


def test_trusted_images_sorted_by_class_are_judged_in_all_classes_by_as_many_labels_as_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = noisy_set(40, (1, 16, 16), 4)
    trusted = ImageSet.from_arrays(noisy_set(800, (1, 16, 16), 4).images, np.arange(800) // 200)
    monkeypatch.setattr(choice, "TRUSTED", 100)
    monkeypatch.setattr(choice, "train_victim", lambda *asked: SimpleNamespace(network=AlwaysTheFirst()))
    found = choice.choose(data, trusted, Work(1), candidates=("none",), labels=60)
    assert found.labels == 60 and found.votes.shape == (2, 100)
    assert 0.05 < found.best.accuracy < 0.5  # a quarter, where all are of the first class in the first rows
    assert choice.choose(data, trusted, Work(1), candidates=("none",)).labels == 100
    assert choice.choose(data, trusted[slice(0, 30)], Work(1), candidates=("none",), labels=60).labels == 0
