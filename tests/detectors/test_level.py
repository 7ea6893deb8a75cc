"""The rule of ``--sigma auto`` on images whose content, or poison, is known to be read with ease."""

import numpy as np
import pytest

from eclipse.attacks import make_attack
from eclipse.data.imageset import ImageSet
from eclipse.detectors import evidence
from eclipse.detectors.level import Reading, lowest_level
from eclipse.errors import EclipseError
from eclipse.runs.state import Work

ROWS, SIDE = 240, 16


def smooth(labels: np.ndarray) -> ImageSet:
    """Images of four patches, which tell nothing of the labels."""
    patches = np.random.default_rng(1).integers(60, 190, (len(labels), 3, 2, 2))
    return ImageSet.from_arrays(patches.repeat(SIDE // 2, 2).repeat(SIDE // 2, 3).astype(np.uint8), labels)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, ROWS)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is bright or dark is learned in few steps."""
    monkeypatch.setattr(evidence, "LEAST_STEPS", 40)


def test_where_nothing_falls_the_lowest_level_is_taken(labels: np.ndarray) -> None:
    data = smooth(labels)
    bright = data.with_images((data.images // 2 + 100 * labels[:, None, None, None]).astype(np.uint8))
    found = lowest_level(bright, Work(), (12.0, 32.0))
    assert [reading.sigma for reading in found] == [12 / 255] and found[0].quiet
    assert found[0].read["pixels"] > 0.95 and found[0].read.keys() == found[0].floor.keys() >= {"residuals"}


def test_a_shortcut_that_a_level_leaves_asks_for_the_next_one(labels: np.ndarray) -> None:
    poisoned = make_attack("urp").poison(smooth(labels))
    found = lowest_level(poisoned, Work(), (1.0, 32.0))
    assert [reading.sigma for reading in found] == [1 / 255, 32 / 255] and not found[0].quiet
    assert found[0].read["pixels"] > 0.95 and found[0].clearest in found[0].words()


def test_a_reading_is_quiet_up_to_the_margin_of_clean_sets() -> None:
    floor = {"pixels": 0.2, "spectra": 0.5}
    assert Reading(0.1, {"pixels": 0.2, "spectra": 0.55}, floor).quiet
    loud = Reading(0.1, {"pixels": 0.3, "spectra": 0.5}, floor)
    assert not loud.quiet and loud.clearest == "pixels"
    assert "30%" in loud.words() and "20%" in loud.words()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (smooth(np.zeros(ROWS, np.int64)), "one class"),
        (smooth(np.arange(ROWS)), "240 classes"),
        (smooth(np.zeros(150, np.int64)), "200"),
        (ImageSet.from_arrays(smooth(np.zeros(ROWS, np.int64)).images), "labels"),
    ],
)
def test_what_tells_no_level_is_refused(data: ImageSet, word: str) -> None:
    with pytest.raises(EclipseError, match=word):
        lowest_level(data, Work())
