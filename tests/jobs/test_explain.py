"""``eclipse explain``: figures of a perturbation that is known, and what cannot be explained."""

import json
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command, files, refusal

from eclipse.attacks import make_attack
from eclipse.data.imageset import ImageSet
from eclipse.jobs.preview import LEVELS
from eclipse.report import write_report

ROWS, SIDE = 240, 16


def smooth(rows: int = ROWS, side: int = SIDE) -> ImageSet:
    """Images of four patches, which tell nothing of their labels."""
    rng = np.random.default_rng(1)
    patches = rng.integers(60, 190, (rows, 3, 2, 2))
    return ImageSet.from_arrays(
        patches.repeat(side // 2, 2).repeat(side // 2, 3).astype(np.uint8), rng.integers(0, 2, rows)
    )


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ImageSet, ImageSet]:
    """A clean set and its copy with class-wise noise, written to the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    clean = smooth()
    poisoned = make_attack("urp").poison(clean)
    clean.save(Path("clean.npz"))
    poisoned.save(Path("poisoned.npz"))
    return clean, poisoned


def test_noise_and_part_a_absorb_what_a_probe_reads(sets: tuple[ImageSet, ImageSet], command: Command) -> None:
    said = command("explain", "poisoned.npz", "--clean", "clean.npz", "--out", "x")
    assert said.code == 0 and "eclipse report x" in said.out
    found = json.loads(Path("x/explain.json").read_text())
    clean, poisoned = sets
    length = ((poisoned.images.astype(float) - clean.images) ** 2).sum((1, 2, 3))
    assert found["rows"] == ROWS and found["length"] == pytest.approx(np.sqrt(length).mean() / 255, abs=1e-3)
    for rung in found["noise"]:
        assert rung["divergence"] == pytest.approx(length.mean() / (2 * rung["sigma"] ** 2), rel=1e-3)
        assert 0 <= rung["apart"][0] <= rung["apart"][1] <= 1
    first, last = found["noise"][0], found["noise"][-1]
    assert last["apart"][1] < first["apart"][1] and last["apart"][0] < first["apart"][0]
    assert first["read"]["perturbation"] == first["read"]["poisoned"] == 1 and first["read"]["clean"] < 0.7
    assert last["read"]["poisoned"] < 0.9
    left = [level["left"] for level in found["purified"]]
    assert [level["sigma"] for level in found["purified"]] == list(LEVELS)
    assert left == sorted(left, reverse=True) and left[-1] < 0.2
    for name in ("poisoned", "noised-32", "purified-32", "purified-clean-32"):
        assert ImageSet.load(Path(f"x/{name}.npz")).images.shape == (6, 3, SIDE, SIDE)
    again = command("explain", "poisoned.npz", "--clean", "clean.npz", "--out", "x")
    assert "complete already" in again.out
    other = command("explain", "poisoned.npz", "--clean", "clean.npz", "--out", "x", "--image-column", "photo")
    assert other.code == 2 and "photo" in other.err


def test_images_that_are_large_or_without_labels_are_explained_as_far_as_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = smooth(30, 100)
    np.savez("clean.npz", images=clean.images)
    np.savez("poisoned.npz", images=make_attack("urp").poison(clean).images)
    assert command("explain", "poisoned.npz", "--clean", "clean.npz", "--out", "x").code == 0
    found = json.loads(Path("x/explain.json").read_text())
    assert "labels" not in found["noise"][0] and found["noise"][0]["read"] is None and "poisoned.npz" in found["unread"]
    assert ImageSet.load(Path("x/clean.npz")).images.shape == (6, 3, 64, 64)
    page = write_report(Path("x"), Path("page"))[0].read_text()
    assert "Labels were not read" in page and files(Path("page")) == {"explain.html"}


def test_what_cannot_be_explained_is_refused_and_leaves_nothing(
    sets: tuple[ImageSet, ImageSet], command: Command
) -> None:
    smooth(ROWS - 1).save(Path("shorter.npz"))
    smooth(ROWS, 8).save(Path("small.npz"))
    smooth(ROWS, 8).with_images(smooth(ROWS, 8).images + np.uint8(1)).save(Path("small-poisoned.npz"))
    before = files(Path())
    for poisoned, clean, words in (
        ("clean.npz", "clean.npz", "same pixels"),
        ("poisoned.npz", "shorter.npz", "239"),
        ("poisoned.npz", "small.npz", "8x8"),
        ("small-poisoned.npz", "small.npz", "8 pixels"),
    ):
        assert words in refusal(command("explain", poisoned, "--clean", clean, "--out", "x"))
        assert files(Path()) == before
