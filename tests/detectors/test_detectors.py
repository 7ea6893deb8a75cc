"""Detectors on small sets whose content is known: what they find in poisoned ones, and what not in clean ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.letters import shapes
from kit.tiny import one_sentence

import eclipse
from eclipse.attacks import make_attack
from eclipse.data.imageset import ImageSet
from eclipse.detectors import DETECTORS, evidence
from eclipse.detectors import audit as audits
from eclipse.detectors.audit import Audit, audit
from eclipse.detectors.detector import Finding, excess
from eclipse.detectors.evidence import Evidence, near_duplicates, ridge
from eclipse.errors import EclipseError
from eclipse.runs.state import State, Work

ROWS = 400


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Letters are learned in fewer steps than photographs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "LEAST_STEPS", 120)
        yield


@pytest.fixture(scope="module")
def clean() -> ImageSet:
    return shapes(ROWS, 1)


@pytest.fixture(scope="module")
def trusted() -> ImageSet:
    return shapes(ROWS, 2)


@pytest.fixture(scope="module")
def most(clean: ImageSet) -> ImageSet:
    """Four of five rows are poisoned."""
    rows = np.random.default_rng(0).random(len(clean)) < 0.8
    return clean.with_images(
        np.where(rows[:, None, None, None], make_attack("urp", radius=16 / 255).poison(clean).images, clean.images)
    )


def test_a_clean_set_is_not_suspicious(clean: ImageSet, trusted: ImageSet) -> None:
    found = audit(clean, trusted=trusted)
    assert not found.suspicious and found.family is None and found.skipped == {}
    assert set(found.findings) == set(DETECTORS.names())
    assert not any(found.issues()["is_poison_issue"]) and set(found.issues()["poison_score"]) == {1.0}


def test_a_poison_of_a_part_is_found_and_its_rows_are_told_and_an_audit_goes_on(
    most: ImageSet, clean: ImageSet, tmp_path: Path
) -> None:
    steps: list[str] = []
    state = State(tmp_path, lambda step: steps.append(step.stage))
    found = audit(most, work=Work(3, state=state))
    assert found.suspicious and "shortcut" in found.found
    assert set(found.skipped) == {name for name in DETECTORS.names() if "trusted" in DETECTORS.load(name).needs}
    bad = (most.images != clean.images).any((1, 2, 3))
    assert found.share is not None and found.share[0] <= bad.mean() <= found.share[1]
    assert found.suspicion[bad].mean() > found.suspicion[~bad].mean() + 0.2
    begun = len(steps)
    assert audit(most, work=Work(3, state=state)).to_dict() == found.to_dict()
    assert set(steps[begun:]) == {"detectors"}  # no network was trained again


def test_other_images_are_different_and_not_poisoned(clean: ImageSet, trusted: ImageSet) -> None:
    darker = trusted.with_images(trusted.images // 2)
    found = audit(clean, trusted=darker, detectors=["two-sample"])
    assert "two-sample" in found.found and not found.suspicious


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data[slice(0, 150)], "200"),
        (lambda data: replace(data, labels=np.zeros(ROWS, np.int64)), "one class"),
        (lambda data: replace(data, labels=np.arange(ROWS)), "400 classes"),
        (lambda data: data.with_images(np.zeros_like(data.images)), "alike"),
    ],
)
def test_what_can_carry_no_verdict_is_refused(change: object, word: str, clean: ImageSet) -> None:
    with pytest.raises(EclipseError) as error:
        audit(change(clean))  # type: ignore[operator]
    assert word in one_sentence(str(error.value))


def test_trusted_images_from_the_set_are_refused_or_left_out(clean: ImageSet, trusted: ImageSet) -> None:
    with pytest.raises(EclipseError, match="trusted"):
        audit(clean, trusted=clean)
    both = np.concatenate([trusted.images, clean.images[:7]])
    found = eclipse.audit(clean.images, clean.labels, both, detectors=["two-sample"])
    assert any("7 of the" in note for note in found.notes)


def test_without_labels_sets_can_only_be_compared(clean: ImageSet, trusted: ImageSet) -> None:
    found = audit(replace(clean, labels=None), trusted=trusted)
    assert set(found.findings) == {"two-sample"} and not found.suspicious
    assert not audit(replace(clean, labels=None)).findings


def test_an_excess_that_a_clean_set_may_have_is_no_finding() -> None:
    right = np.arange(1000) < 600
    better = np.arange(1000) < 620
    for margin, significant in ((0.0, True), (0.02, False)):
        statistic, null = excess(better, right, margin)
        assert statistic == pytest.approx(0.02)
        assert (Finding(statistic, null, "").p_value < 0.001) == significant


def test_many_looks_are_counted() -> None:
    once, often = Finding(3.0, (0.0, 1.0), ""), Finding(3.0, (0.0, 1.0), "", looks=40)
    assert often.p_value == pytest.approx(40 * once.p_value)


def test_near_duplicates_are_in_one_half(clean: ImageSet) -> None:
    again = np.clip(clean.images.astype(int) + 1, 0, 255).astype(np.uint8)
    ids = tuple(map(str, range(2 * ROWS)))
    double = ImageSet(np.concatenate([clean.images, again]), ids, np.tile(clean.labels, 2))
    groups = near_duplicates(double)
    assert (groups[:ROWS] == groups[ROWS:]).all() and len(np.unique(groups)) > 0.9 * ROWS
    fold = Evidence(double).fold
    assert (fold[:ROWS] == fold[ROWS:]).all() and 0.4 < fold.mean() < 0.6


def test_ridge_reads_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = (np.eye(3)[labels] + rng.normal(0, 0.2, (200, 3))).astype(np.float32)
    read = ridge(features[:100], labels[:100], features[100:], 3)
    assert np.allclose(read.sum(1), 1, atol=1e-5) and (read.argmax(1) == labels[100:]).mean() > 0.95


def test_scores_join_with_frames_of_others() -> None:
    found = Audit(2, ("a", "b"), {}, {})
    assert found.issues() == {"id": ["a", "b"], "is_poison_issue": [False, False], "poison_score": [1.0, 1.0]}


def test_text_of_a_set_stays_text_in_a_notebook() -> None:
    shown = Audit(2, (), {"harm": Finding(0, (0, 1), "<i>")}, {})._repr_html_()
    assert "&lt;i&gt;" in shown and "<i>" not in shown


def test_classes_have_their_own_numbers_and_each_an_output_though_a_half_has_none_of_them() -> None:
    labels = np.repeat(np.arange(50) * 3, 4)
    data = ImageSet.from_arrays(np.random.default_rng(0).integers(0, 256, (200, 1, 16, 16), np.uint8), labels)
    numbered = audits.numbered(data)
    assert numbered.class_names is not None and numbered.class_names[49] == "147"
    halves = (Evidence(numbered, None, Work(seed)) for seed in range(50))
    gap = next(half for half in halves if not half.fold[-4:].any())
    assert gap.in_content.shape == (200, 50)


def test_rows_that_no_half_can_be_made_of_are_refused() -> None:
    images = (128 + np.random.default_rng(0).integers(-5, 6, (200, 3, 16, 16))).astype(np.uint8)
    with pytest.raises(EclipseError, match="near-duplicates"):
        audit(images, np.arange(200) % 2, detectors=["shortcut"])


def test_a_single_trusted_gray_image_is_enough_to_go_on(clean: ImageSet) -> None:
    gray = clean.images.mean(1, keepdims=True).astype(np.uint8)
    found = audit(gray, clean.labels, 255 - gray[:1], detectors=["two-sample", "direction"])
    assert not found.suspicious and set(found.findings) == {"two-sample", "direction"}


def test_trusted_images_are_looked_for_among_rows_that_are_not_looked_at(
    clean: ImageSet, trusted: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "most", lambda side: 200)
    left_out = np.setdiff1d(np.arange(ROWS), audits.sampled(ROWS, 32, 0))[:7]
    both = np.concatenate([trusted.images, clean.images[left_out]])
    assert any("7 of the" in note for note in audit(clean, trusted=both, detectors=["two-sample"]).notes)
