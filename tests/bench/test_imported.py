"""Poisons that others have made are columns of a grid like attacks, paired as ``eclipse poison --import`` does."""

import json
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command, refusal, write_images
from kit.grids import bench_of, grid_of, quiet, save
from kit.tiny import one_sentence

from eclipse.bench.grid import Choice, Grid
from eclipse.bench.plan import load_imported, load_sets, plan
from eclipse.data.imageset import ImageSet
from eclipse.data.source import load_imageset, open_source
from eclipse.errors import EclipseError

TAP = ('"ops", "em"]\nscale', '"ops", "published TAP"]\nscale'), ('em = ["max_rounds=1", "batch=16"]\n', "")
FEW = ('"none", "iss-g", "mixup", "trusted-only"', '"none", "iss-g"'), ("seeds_of.none = [0, 1]", "")


def with_import(data: Path, value: str, *changes: tuple[str, str]) -> Grid:
    section = ("[attacks.set]\n", f'[attacks.imported]\n"published TAP" = {value}\n')
    return grid_of(data, *TAP, *FEW, section, *changes)


def write_noise(path: Path, side: int = 16, count: int = 40) -> np.ndarray:
    noise = np.random.default_rng(5).integers(-8, 9, (count, 3, side, side)).astype(np.int8)
    np.save(path, noise)
    return noise


def poisoned(data: Path, grid: Grid, name: str = "published TAP") -> ImageSet:
    return load_imported(grid, data, name, load_sets(grid, data)["train"])[0]


NOISE = '{path = "tap.npy", sign = 1, unit = "levels"}'


def test_an_imported_perturbation_is_a_column_of_the_tables(data: Path, command: Command) -> None:
    noise, out = write_noise(data / "tap.npy"), data / "results"
    with_import(data, NOISE)
    options = ("bench", data / "grid.toml", "--data", data, "--out", out)
    said = command(*options, "--dry-run")
    assert said.code == 0 and not out.exists(), said
    assert "published TAP perturbation of each image in tap.npy, sign 1, unit levels" in said.out
    assert said.out.count("published-TAP-") == 2
    said = command(*options, "--cell", "published TAP", "--cell", "clean/none")
    assert said.code == 0, said
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert sorted(cell["cell"][:-9] for cell in cells) == [
        *("clean-none-small-0", "published-TAP-iss-g-small-0", "published-TAP-none-small-0")
    ]
    (attack,) = {json.dumps(cell["attack"]) for cell in cells if cell["attack"]["name"] == "published TAP"}
    assert json.loads(attack)["fields"] == {"path": "tap.npy", "sign": 1, "unit": "levels"}
    train = load_imageset(open_source(data / "train.npz"), "a test")
    expected = train.with_images(np.clip(train.images.astype(int) + noise, 0, 255).astype(np.uint8))
    assert json.loads(attack)["fingerprint"] == expected.fingerprint()
    assert command("report", out).code == 0
    report = (out / "report.md").read_text()
    assert "| published TAP | imported |" in report
    assert "| imported poisons | published TAP: path tap.npy, sign 1, unit levels |" in report


def test_images_of_others_are_those_that_poison_would_import(data: Path, command: Command) -> None:
    write_images(data / "photos", 40, side=16)
    write_images(data / "theirs", 40, side=16, seed=9)
    grid = with_import(data, '"theirs"', ('"train.npz"', '"photos"'))
    assert command("poison", data / "photos", "--import", data / "theirs", "--out", data / "made").code == 0
    made = load_imageset(open_source(data / "made"), "a test")
    found = poisoned(data, grid)
    assert found.ids == made.ids and found.class_names == made.class_names
    np.testing.assert_array_equal(found.images, made.images)
    np.testing.assert_array_equal(found.require_labels("a test"), made.require_labels("a test"))


def test_other_pixels_are_another_cell_and_another_file_with_the_same_ones_is_not(data: Path) -> None:
    choice = Choice("published TAP", "none", "small", 0)
    names = list[str]()
    write_noise(data / "copy.npy")
    for value in (NOISE, NOISE.replace("tap", "copy"), NOISE.replace("sign = 1", "sign = -1")):
        write_noise(data / "tap.npy")
        bench = bench_of(data, with_import(data, value))
        names.append(bench.name(choice))
    assert names[0] == names[1] != names[2]
    np.save(data / "tap.npy", write_noise(data / "tap.npy")[::-1])
    bench = bench_of(data, with_import(data, NOISE))
    assert bench.name(choice) not in names
    clean = Choice("clean", "none", "small", 0)
    assert bench.name(clean) == bench_of(data, grid_of(data)).name(clean), "other columns play no part"


def test_cells_load_the_poison_and_it_costs_nothing(data: Path) -> None:
    write_noise(data / "tap.npy")
    with_import(data, NOISE)
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert set(asked.cost().poisons) == {"ops"}
    asked.keep_sets()
    result = asked.bench.run(Choice("published TAP", "iss-g", "small", 0), quiet)
    assert result.seconds.poison == 0.0 and result.seconds.poison_shared
    assert result.attack.fingerprint == asked.bench.imported["published TAP"]


def test_a_poison_that_is_changed_between_plan_and_work_is_refused(data: Path) -> None:
    write_noise(data / "tap.npy")
    with_import(data, NOISE)
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=None, device="cpu")
    np.save(data / "tap.npy", write_noise(data / "tap.npy")[::-1])
    with pytest.raises(EclipseError, match="'published TAP' was changed meanwhile; run the same command again"):
        asked.keep_sets()


def test_a_poison_is_for_images_as_the_grid_resizes_them(data: Path) -> None:
    write_images(data / "photos", 40, side=24)
    write_images(data / "theirs", 40, side=24, seed=9)
    write_noise(data / "tap.npy")
    resize = ('train = "train.npz"', 'resize = 16\ntrain = "photos"')
    for value in ('"theirs"', NOISE):
        assert poisoned(data, with_import(data, value, resize)).images.shape == (40, 3, 16, 16)
    theirs = load_imageset(open_source(data / "theirs", side=16), "a test")
    np.testing.assert_array_equal(poisoned(data, with_import(data, '"theirs"', resize)).images, theirs.images)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{path = "none.npy", sign = 1, unit = "levels"}', "no such file"),
        ('"tap.npy"', r'say how to add it, as {path = "tap.npy", sign = 1, unit = "levels"}'),
        ('{path = "tap.npy", sign = 2, unit = "levels"}', "expected 1 or -1"),
        ('{path = "tap.npy", sign = 1, unit = "pixels"}', "unknown unit 'pixels'"),
        ('{path = "tap.npy", sign = 1, unit = "unit"}', "from -8 to 8, and .* goes from -1 to 1"),
        ('{path = "other.npz", sign = 1, unit = "unit"}', "is images"),
        ('"other.npz"', "is 8x8 and .*, whose place it takes, is 16x16"),
        ('"fewer.npz"', "30"),
        ('"labels.npz"', "is of class 1 and .*, whose place it takes, of class 0"),
        ('"train.npz"', "changes nothing"),
        ('{path = "tap.pt", sign = 1, unit = "levels"}', "is not a tensor that can be read safely"),
    ],
)
def test_what_does_not_certainly_belong_to_the_training_set_is_refused_before_any_work(
    data: Path, command: Command, value: str, said: str
) -> None:
    write_noise(data / "tap.npy")
    save(data / "other.npz", 40, side=8, seed=3)
    save(data / "fewer.npz", 30, seed=3)
    save(data / "labels.npz", 41, seed=3)
    with np.load(data / "labels.npz") as file:
        np.savez(data / "labels.npz", images=file["images"][1:], labels=file["labels"][1:])
    (data / "tap.pt").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with_import(data, value)
    before = sorted(data.rglob("*"))
    sentence = refusal(command("bench", data / "grid.toml", "--data", data, "--out", data / "results"))
    assert "'published TAP'" in sentence, sentence
    with pytest.raises(EclipseError, match=said):
        plan(data / "grid.toml", data, data / "results", cells=(), cache=None, device="cpu")
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"published TAP" = ', '"em" = ', "line 14: imported poison 'em'; expected a name of its own"),
        ('"published TAP" = ', '"a/b" = ', "line 14: imported poison 'a/b'; expected a name of its own"),
        ('"published TAP" = ', '"\\u001b[1m" = ', "imported poison .*; expected a name of its own"),
        (
            '"published TAP" = ',
            '"published REM" = ',
            "line 11: unknown attack 'published TAP'; did you mean 'published REM'",
        ),
        ('= "t"', '= "t"\n"published REM" = "t"', "line 15: unknown attack of this grid 'published REM'"),
        ('= "t"', '= {file = "t"}', r"unknown word in \[attacks.imported.published TAP\] 'file'"),
        ('= "t"', '= {path = "t", sign = "1"}', "sign = '1'; expected a whole number"),
        ('= "t"', "= {sign = 1}", r"\[attacks.imported.published TAP\] of .* has no 'path'"),
        ('= "t"', "= 5", "imported.published TAP = 5; expected a section"),
        ('= "t"', '= "t"\n[attacks.set]\n"published TAP" = ["eps=4"]', "line 16: unknown attack of this grid"),
    ],
)
def test_a_mistake_in_the_section_is_named(data: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(EclipseError, match=said) as caught:
        with_import(data, '"t"', (old, new))
    one_sentence(str(caught.value).replace("grid.toml", ""))
