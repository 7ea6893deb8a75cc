"""``eclipse purify --sigma auto``: the level is found once, told, and kept."""

from pathlib import Path

import pytest
from kit.commands import Command, refusal, write_images

from eclipse.detectors.level import Reading
from eclipse.jobs import purify
from eclipse.runs.manifest import read_manifest

QUIET, LOUD = (Reading(sigma / 255, {"spectra": read}, {"spectra": 0.3}) for sigma, read in ((12, 0.32), (26, 0.9)))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled folder, in which a quiet level is found, in the folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 200, side=16)
    found(monkeypatch, QUIET)
    return tmp_path


def found(monkeypatch: pytest.MonkeyPatch, *readings: Reading) -> None:
    monkeypatch.setattr(purify, "lowest_level", lambda data, work: readings)


def test_the_level_is_told_with_its_reason_and_not_looked_for_again(
    place: Path, denoiser_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("purify", "images", "--denoiser", denoiser_folder, "--out", "out")
    said = command(*asked, "--sigma", "auto")
    assert said.code == 0 and "32% of labels" in said.out and "noise level" in said.out
    told = read_manifest(Path("out"))["settings"]["purification"]
    assert told["sigma"] == 12 and "lowest" in told["auto"]
    found(monkeypatch, LOUD)
    assert "complete already" in command(*asked, "--sigma", "auto").out
    assert "complete already" in command(*asked, "--sigma", "12").out
    assert "seed" in refusal(command(*asked, "--sigma", "12", "--seed", "1"))


def test_where_all_others_leave_something_the_strongest_is_taken(
    place: Path, denoiser_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, LOUD, Reading(32 / 255, LOUD.floor, LOUD.floor))
    asked = ("purify", "images", "--denoiser", denoiser_folder, "--out", "out", "--sigma", "auto")
    said = command(*asked)
    assert said.code == 0 and "after 26/255 spectra tell 90%" in said.out
    assert read_manifest(Path("out"))["settings"]["purification"]["sigma"] == 32
    assert "complete already" in command(*asked).out


def test_what_leaves_the_choice_open_is_refused(place: Path, denoiser_folder: Path, command: Command) -> None:
    write_images(place / "few", 6, side=16)
    (place / "flat").mkdir()
    (place / "images" / "class0" / "000.png").rename(place / "flat" / "a.png")
    for name, word in (("few", "200"), ("flat", "labels")):
        said = refusal(command("purify", name, "--denoiser", denoiser_folder, "--out", "out", "--sigma", "auto"))
        assert word in said and "--sigma 32" in said
    said = command("purify", "images", "--denoiser", denoiser_folder, "--out", "out", "--sigma", "much")
    assert said.code == 2 and "much" in said.err


def test_unreadable_images_are_left_out_of_the_choice_where_they_may_be(
    place: Path, denoiser_folder: Path, command: Command
) -> None:
    write_images(place / "more", 210, side=16)
    next((place / "more").rglob("*.png")).write_bytes(b"no image")
    asked = ("purify", "more", "--denoiser", denoiser_folder, "--out", "out", "--sigma", "auto")
    assert "--skip-bad" in refusal(command(*asked))
    assert command(*asked, "--skip-bad").code == 0
