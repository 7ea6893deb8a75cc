"""The demo: its numbers are measured in the run, and the story that they tell is true."""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.commands import Command, refusal
from kit.tiny import some_images
from PIL import Image

from eclipse.attacks import make_attack
from eclipse.data.imageset import ImageSet
from eclipse.jobs import demo
from eclipse.jobs.demo import Split, read_folder, tell_story, write_folder
from eclipse.runs.files import locked
from eclipse.runs.manifest import versions


def labelled(count: int, classes: int = 3, side: int = 16, seed: int = 0) -> ImageSet:
    images = some_images(count, side, side, seed)
    return ImageSet.from_arrays(images, np.arange(count) % classes)


def small_parts(seed: int = 0) -> Split:
    return Split(labelled(80, seed=1), labelled(30, seed=3))


@pytest.fixture(scope="module")
def parts() -> Split:
    return demo.digits(0)


QUICK = demo.Setting(replace(demo.DIGITS.recipe, epochs=1, batch=16))


@dataclass
class Watched:
    """What the demo trained networks on and measured them with, and the accuracies that it was told."""

    told: Iterator[float]
    trained_on: list[ImageSet] = field(default_factory=list)
    augmented: list[bool] = field(default_factory=list)
    tested_on: list[ImageSet] = field(default_factory=list)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    """Take the place of the victims: nothing is trained, and their accuracies are the given ones."""

    def watched(*accuracies: float) -> Watched:
        seen = Watched(iter(accuracies))

        def fit(
            network: torch.nn.Module, train: ImageSet, recipe: Any, *, augment: Any, **options: Any
        ) -> Iterator[None]:
            x = torch.full((200, 3, 16, 16), 0.5)
            seen.trained_on.append(train)
            seen.augmented.append(not torch.equal(augment(x, None)[0], x))
            return iter(())

        def accuracy(network: torch.nn.Module, test: ImageSet, *, device: str) -> float:
            seen.tested_on.append(test)
            return next(seen.told)

        monkeypatch.setattr(demo, "fit", fit)
        monkeypatch.setattr(demo, "accuracy", accuracy)
        return seen

    return watched


def numbers(out: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return dict(json.loads((out / "demo.json").read_text(), parse_constant=refuse))


def test_what_is_printed_is_what_was_measured(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., Watched]
) -> None:
    seen, parts = watch(0.875, 0.125, 0.625), small_parts()
    monkeypatch.setattr(demo, "digits", lambda seed: parts)
    monkeypatch.setattr(demo, "DIGITS", QUICK)
    out = tmp_path / "out"
    said = command("demo", "--out", out, "--attack", "urp", "--seed", 7)
    assert said.code == 0, said
    assert said.out.splitlines() == [
        f"80 training images poisoned with URP: {out}/poisoned",
        "trained on clean data:      87.5% of 30 test images right",
        "trained on poisoned data:   12.5%",
        "purified + compensated:     62.5%   (recovery 0.67)",
        f"picture: {out}/picture.png; numbers: {out}/demo.json",
        f"wrote {out}/purified.report.html",
    ]
    recorded = numbers(out)
    assert recorded["accuracy"] == {"clean": 0.875, "poisoned": 0.125, "purified": 0.625}
    assert recorded["recovery"] == pytest.approx(2 / 3)
    assert recorded["attack"] == "urp" and recorded["seed"] == 7 and recorded["training images"] == 80
    assert recorded["versions"] == versions() and recorded["command"].startswith("eclipse demo --out")
    assert set(recorded["seconds"]) == {
        "poison",
        "victims",
        "purification",
        "victim on purified data",
    }

    clean, poisoned, purified = seen.trained_on
    assert clean is parts.train and all(test is parts.test for test in seen.tested_on)
    expected = make_attack("urp").poison(parts.train, seed=7, device="cpu")
    np.testing.assert_array_equal(poisoned.images, expected.images)
    np.testing.assert_array_equal(read_folder(out / "poisoned", clean).images, expected.images)
    np.testing.assert_array_equal(read_folder(out / "purified", clean).images, purified.images)
    assert (purified.images != poisoned.images).any(axis=(1, 2, 3)).all()
    assert (purified.labels == clean.labels).all() and purified.ids == clean.ids
    assert seen.augmented == [False, False, True]
    manifest = json.loads((out / "purified.run.json").read_text())
    assert manifest["settings"]["denoiser"].startswith("general") and manifest["settings"]["seed"] == 7


def test_a_poison_without_harm_is_said_to_be_one(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watch(0.5, 0.5, 0.4)
    said: list[str] = []
    story = tell_story(small_parts(), tmp_path / "out", QUICK, say=said.append)
    assert math.isnan(story.recovery) and said[-1].endswith("40.0%   (the poison did no harm)")
    assert numbers(tmp_path / "out")["recovery"] is None


def test_the_picture_shows_the_same_images_in_five_rows(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    seen = watch(0.9, 0.1, 0.8)
    parts = small_parts()
    story = tell_story(parts, tmp_path / "out", QUICK)
    with Image.open(story.picture) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        assert image.size == (90 + 8 * (2 * 16 + 2), 5 * (2 * 16 + 2))
        drawn = np.asarray(image).astype(int)
    clean, poisoned, purified = (x.images.astype(int) for x in seen.trained_on)
    rows = [clean, poisoned, purified, 127.5 + 10 * (poisoned - clean), 127.5 + 10 * (purified - clean)]
    for line, images in enumerate(rows):
        for column in range(8):
            tile = drawn[line * 34 :, 90 + column * 34 :][:32:2, :32:2].transpose(2, 0, 1)
            np.testing.assert_array_equal(tile, np.clip(images[column], 0, 255).round())


def test_the_story_is_told_of_the_users_data(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "OWN_DATA", QUICK)
    write_folder(labelled(210), tmp_path / "data")
    write_folder(labelled(1, side=24), tmp_path / "data")
    options = ("demo", "--data", tmp_path / "data", "--out", tmp_path / "out", "--attack", "ar")
    assert "expected one size for the demo: name it, such as --resize 64" in refusal(command(*options))
    said = command(*options, "--resize", 16)
    assert said.code == 0, said
    printed = [float(number) for number in re.findall(r": +(\d+\.\d)%", said.out)]
    recorded = numbers(tmp_path / "out")
    assert printed == [round(100 * share, 1) for share in recorded["accuracy"].values()]
    assert recorded["training images"] == 210 - 52
    with Image.open(tmp_path / "out" / "picture.png") as image:
        image.load()
    assert "purifying: 100%, 158 of 158" in said.err


def test_an_interrupted_demo_says_that_the_same_command_begins_anew_and_it_does(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., Watched]
) -> None:
    parts, out = small_parts(), tmp_path / "out"
    monkeypatch.setattr(demo, "digits", lambda seed: parts)
    monkeypatch.setattr(demo, "DIGITS", QUICK)
    options = ("demo", "--out", out, "--attack", "urp")

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_draw", interrupt)  # all else is there
        watch(0.5, 0.5, 0.5)
        said = command(*options)
    assert said.code == 130 and said.err.endswith("eclipse: interrupted; the same command begins anew\n"), said
    (out / "notes.txt").write_text("mine")
    (out / "clean" / "0" / "999999.png").write_bytes(b"of an earlier state")
    with locked(out / ".unfinished", out):
        assert "another process is working on" in refusal(command(*options))
    watch(0.5, 0.5, 0.5)
    assert command(*options).code == 0
    assert (out / "notes.txt").read_text() == "mine" and not (out / "clean" / "0" / "999999.png").exists()
    assert "not empty" in refusal(command(*options)), "a finished demo stays"


# Folders

NAMES = ("zebra", "ant", "../../escaped", "/escaped", ".hidden", "a.b", "", "é", "con:", "w" * 300, "9", "10")


def test_a_folder_comes_back_in_order_whatever_the_classes_are_called(tmp_path: Path) -> None:
    images = some_images(30)
    data = ImageSet(images, tuple(f"x/{i}.png" for i in range(30)), (np.arange(30) * 7 % 12).astype(np.int64), NAMES)
    write_folder(data, tmp_path / "in" / "folder")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"{i:06d}.png" for i in range(30)}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["folder"]
    back = read_folder(tmp_path / "in" / "folder", data)
    np.testing.assert_array_equal(back.images, images)
    assert back.ids == data.ids and back.labels is data.labels and back.class_names == NAMES


def test_many_classes_without_names_come_back_too(tmp_path: Path) -> None:
    data = labelled(36, classes=12)
    write_folder(data, tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == sorted(str(i) for i in range(12))
    np.testing.assert_array_equal(read_folder(tmp_path / "folder", data).images, data.images)


# Data


def test_a_split_shares_no_image_and_follows_the_seed() -> None:
    data = labelled(400)
    parts = demo.split(data, 3)
    ids = [set(part.ids) for part in (parts.train, parts.test)]
    assert [len(part) for part in ids] == [300, 100] and len(set.union(*ids)) == 400
    assert demo.split(data, 3).train.ids == parts.train.ids != demo.split(data, 4).train.ids


def test_digits_on_photographs_are_labelled_and_drawn_anew_each_time(parts: Split) -> None:
    assert len(parts.test) == 650 and len(parts.train) % (1797 - 650) == 0
    assert parts.train.images.shape[1:] == (3, 32, 32) and parts.train.num_classes == 10
    assert parts.train.labels is not None and np.bincount(parts.train.labels).min() > 200
    copies = parts.train.images.reshape(-1, 1797 - 650, 3, 32, 32)
    assert (copies[0] != copies[1]).any(axis=(1, 2, 3)).all()


def test_a_small_set_is_visited_often_enough_to_learn_something() -> None:
    setting = demo.Setting(replace(demo.OWN_DATA.recipe, epochs=12, batch=64), steps=500)
    assert [setting.recipe_for(images).epochs for images in (50_000, 640, 40)] == [12, 50, 500]
    assert QUICK.recipe_for(40) == QUICK.recipe


def test_a_class_that_only_the_training_part_has_is_no_error(tmp_path: Path) -> None:
    tell_story(Split(labelled(40, classes=5), labelled(20)), tmp_path / "out", QUICK, attack="urp")


# The whole story


@pytest.mark.slow
def test_the_poison_ruins_the_network_and_purification_saves_it(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, parts: Split
) -> None:
    four = [part[np.flatnonzero(part.require_labels("a test") < 4)] for part in (parts.train, parts.test)]
    monkeypatch.setattr(demo, "digits", lambda seed: Split(*four))
    monkeypatch.setattr(demo, "DIGITS", demo.Setting(replace(demo.DIGITS.recipe, epochs=10, batch=32)))
    said = command("demo", "--out", tmp_path / "out")
    assert said.code == 0, said
    accuracy = numbers(tmp_path / "out")["accuracy"]
    assert accuracy["clean"] - accuracy["poisoned"] >= 0.30, said.out
    assert accuracy["purified"] - accuracy["poisoned"] > 0.5 * (accuracy["clean"] - accuracy["poisoned"]), said.out
