"""A grid: what is read is checked, cells are run once, and nothing is lost when a run is stopped."""

import importlib
import json
import multiprocessing
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.commands import Command, refusal
from kit.tiny import one_sentence, some_images

from eclipse.bench.cache import Cache, key
from eclipse.bench.cell import Bench
from eclipse.bench.grid import Choice, Grid, read_grid
from eclipse.bench.plan import plan
from eclipse.bench.runner import CellStep, Results, chosen, run_cells
from eclipse.bench.runner import command as command_of
from eclipse.bench.sets import load_sets
from eclipse.data.imageset import ImageSet
from eclipse.diffusion.presets import FAST, PRESETS
from eclipse.errors import EclipseError
from eclipse.runs.state import StageStep, State, Work

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
COMMAND = str(Path(sys.executable).with_name("eclipse"))
OVERLAP = ('name = "tiny"', 'name = "tiny"\nprotocol = "paper-overlap"')
GRID = """version = 1
name = "tiny"

[data]
name = "noise"
train = "train.npz"
test = "test.npz"
trusted = "trusted.npz"

[attacks]
names = ["clean", "ops", "em"]
scale = "small"
[attacks.set]
em = ["max_rounds=1", "batch=16"]

[defenses]
names = ["none", "iss-g", "mixup", "trusted-only"]
scale = "small"

[victims]
archs = ["small"]
epochs = 1
seeds_of.none = [0, 1]
"""


def save(path: Path, count: int, side: int = 16, seed: int = 0, classes: int = 2) -> None:
    np.savez(path, images=some_images(count, side, side, seed).transpose(0, 2, 3, 1), labels=np.arange(count) % classes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, (name, count) in enumerate({"train": 40, "test": 12, "trusted": 50}.items()):
        save(tmp_path / f"{name}.npz", count, seed=seed)
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path


def grid_of(data: Path, *changes: tuple[str, str]) -> Grid:
    text = GRID
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (data / "grid.toml").write_text(text)
    return read_grid(data / "grid.toml")


def bench_of(data: Path, grid: Grid | None = None) -> Bench:
    grid, cache = grid or grid_of(data), Cache(data / "cache")
    sets = {name: cache.keep(images) for name, images in vars(load_sets(grid, data)).items() if images is not None}
    return Bench(grid, sets, data / "cache", "cpu")


def quiet(step: object) -> None:
    pass


# What is read


def test_the_cells_are_those_of_the_grid_one_seed_after_the_other(data: Path) -> None:
    cells = list(map(str, grid_of(data).cells()))
    first = [
        f"{attack}-{defense}-small-0" for defense in ("none", "iss-g", "mixup") for attack in ("clean", "ops", "em")
    ]
    assert cells == [
        *first,
        "clean-trusted-only-small-0",
        *(f"{attack}-none-small-1" for attack in ("clean", "ops", "em")),
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"ops", "em"]', '"ops", "emm"]', "line 11: unknown attack 'emm'; did you mean 'em'?"),
        ('"mixup", "tr', '"mixupp", "tr', "line 17: unknown defense 'mixupp'; did you mean 'mixup'?"),
        ('archs = ["small"]', 'archs = ["smal"]', "line 21: unknown classifier 'smal'; did you mean 'small'?"),
        ("epochs = 1", 'recipe = "fats"', "line 22: unknown recipe 'fats'; did you mean 'fast'?"),
        ("epochs = 1", "epochs = 0", "line 22: epochs = 0; expected at least 1"),
        ("epochs = 1", 'epochs = "1"', "line 22: epochs = '1'; expected a whole number"),
        ("epochs = 1", "epoch = 1", "line 22: unknown word in \\[victims\\] 'epoch'; did you mean 'epochs'?"),
        ("[0, 1]", '["0"]', "expected a list of whole numbers"),
        ('["clean", "ops", "em"]', '"em"', "line 11: names = 'em'; expected a list of words"),
        ("max_rounds=1", "max_round=1", "line 14: unknown parameter of em 'max_round'; did you mean 'max_rounds'?"),
        ('"ops", "em"]', '"ops", "ops"]', "line 11: attack 'ops' is named twice"),
        ("seeds_of.none", "seeds_of.aa", "line 23: unknown defense of this grid 'aa'"),
        ('"ops", "em"]', '"ops", "test"]', "line 11: unknown attack 'test'"),
        ("epochs = 1", 'recipe = "small"', "line 22: unknown recipe 'small'"),
        ('scale = "small"\n\n', "scale = 3\n\n", "line 18: scale = 3; expected a word"),
        ('name = "noise"', "name = 5", "line 5: name = 5; expected a word"),
        ("epochs = 1", "epochs = 1\nseeds_of.at = [1]", "line 23: unknown defense of this grid 'at'"),
        ('name = "tiny"', 'name = "tiny"\nprotocol = 5', "line 3: unknown protocol '5'"),
        ("[0, 1]", "[0, -1]", "line 23: seed -1; expected 0 to 4294967295"),
        ("epochs = 1", "seeds = [99999999999999999999]", "line 22: seed 99999999999999999999; expected 0 to"),
        ('scale = "small"\n[a', 'scale = "smal"\n[a', "line 12: unknown scale 'smal'; did you mean 'small'?"),
        ("version = 1", "version = 2", "line 1: version = 2; this eclipse reads version 1"),
        ('name = "tiny"', 'nam = "tiny"', "line 2: unknown part of a grid 'nam'; did you mean 'name'?"),
        ('name = "tiny"', 'name = ""', "line 2: name = ''; expected a word"),
        ('name = "tiny"', 'name = " "', "line 2: name = ' '; expected a word"),
        ('name = "noise"', 'name = ""', "line 5: name = ''; expected a word"),
        ('name = "tiny"', "name = ", "grid.toml is no TOML file"),
        (
            'trusted = "trusted.npz"\n',
            "",
            "line 16: defense 'trusted-only' needs labelled images, and \\[data\\] has no",
        ),
        ('train = "train.npz"\n', "", "has no 'train'"),
        ('name = "tiny"', 'name = "tiny"\nprotocol = "paper"', "line 3: unknown protocol 'paper'"),
    ],
)
def test_a_mistake_in_a_grid_is_named_with_its_line(data: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(EclipseError, match=said) as caught:
        grid_of(data, (old, new))
    one_sentence(str(caught.value).replace("grid.toml", ""))


def test_no_such_grid_is_said(tmp_path: Path) -> None:
    with pytest.raises(EclipseError, match=r"no such grid .*none.toml"):
        read_grid(tmp_path / "none.toml")


# The sets


def test_test_images_among_the_trusted_ones_are_refused_but_for_the_papers_protocol(data: Path) -> None:
    overlap = ('trusted = "trusted.npz"', 'trusted = "test.npz"')
    with pytest.raises(EclipseError, match=r"12 rows of .*test.npz are in .*trusted"):
        load_sets(grid_of(data, overlap), data)
    papers = grid_of(data, overlap, OVERLAP)
    assert len(load_sets(papers, data).test) == 12
    with pytest.raises(EclipseError, match=r"12 rows of .* are in .*train"):
        load_sets(
            grid_of(data, ('"train.npz"', '"test.npz"'), OVERLAP),
            data,
        )


def test_a_defense_that_ignores_the_data_is_run_once_for_a_grid_without_clean_data(data: Path) -> None:
    cells = list(map(str, grid_of(data, ('"clean", "ops"', '"ops"')).cells()))
    assert [cell for cell in cells if "trusted-only" in cell] == ["ops-trusted-only-small-0"]


def test_a_missing_package_is_said_before_any_cell_is_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(EclipseError, match=r"line 17: this needs the package 'opacus', .*pip install"):
        grid_of(data, ('"mixup"', '"dp-sgd"'))


def test_overlapping_slices_are_refused_by_their_rows(data: Path) -> None:
    with pytest.raises(EclipseError, match=r"2 rows of .*trusted.npz\[40:\] are in .*trusted.npz\[:42\]"):
        load_sets(
            grid_of(data, ('"test.npz"', '"trusted.npz[40:]"'), ('"trusted.npz"\n\n', '"trusted.npz[:42]"\n\n')), data
        )


def test_a_few_test_images_are_found_among_as_few_trusted_ones(data: Path) -> None:
    save(data / "test.npz", 400, seed=9)
    with np.load(data / "test.npz") as file:
        np.savez(data / "copy.npz", images=file["images"][:2], labels=file["labels"][:2])
    with pytest.raises(EclipseError, match=r"2 test images of .* are in .*copy.npz"):
        load_sets(grid_of(data, ('trusted = "trusted.npz"', 'trusted = "copy.npz"')), data)


def test_the_large_clean_set_is_kept_apart_from_the_test_images_and_is_what_avatar_gets(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ('trusted = "trusted.npz"', 'trusted = "trusted.npz"\nclean = "clean.npz"')
    save(data / "clean.npz", 60, seed=7)
    grid = grid_of(data, named, ('"mixup"', '"mixup", "avatar"'))
    bench, got = bench_of(data, grid), list[ImageSet]()

    def prepare(self: object, images: ImageSet, trusted: ImageSet, work: Work) -> ImageSet:
        got.append(trusted)
        return images

    monkeypatch.setattr("eclipse.defenses.avatar.AVATAR.prepare", prepare)
    bench.run(Choice("clean", "avatar", "small", 0), quiet)
    assert got[0].fingerprint() == bench.sets["clean"] != bench.sets["trusted"]
    with pytest.raises(EclipseError, match=r"12 rows of .* \(clean\), too"):
        load_sets(grid_of(data, (named[0], named[1].replace("clean.npz", "test.npz"))), data)


def test_a_copy_of_the_test_images_under_another_name_is_found_by_its_pixels(data: Path) -> None:
    with np.load(data / "test.npz") as file:
        np.savez(data / "copy.npz", images=file["images"][:5], labels=file["labels"][:5])
    with pytest.raises(EclipseError, match=r"5 test images of .* are in .*copy.npz"):
        load_sets(grid_of(data, ('trusted = "trusted.npz"', 'trusted = "copy.npz"')), data)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("test", {"side": 24}, "test images of 3x24x24 and training images of 3x16x16"),
        ("trusted", {"side": 24}, "the trusted images of .* are of another size"),
        ("test", {"classes": 5}, "test label 4; expected less than 2, the number of training classes"),
        ("train", {"classes": 1}, "a single class"),
        ("trusted", {"classes": 7}, "label 6 in a set of 2 classes; expected trusted images of the same classes"),
    ],
)
def test_sets_that_do_not_fit_are_refused(data: Path, name: str, change: dict[str, int], said: str) -> None:
    save(data / f"{name}.npz", 12, **change)
    with pytest.raises(EclipseError, match=said):
        load_sets(grid_of(data), data)


# What is shared


def test_what_is_made_is_made_once_and_read_back_as_it_was(tmp_path: Path) -> None:
    images = ImageSet(some_images(3), ("a", "b/c", "ü"), np.array([0, 1, 0]), ("cat", "dog"))
    made: list[State] = []

    def make(state: State) -> ImageSet:
        made.append(state)
        state.tell("half", 1, 2)
        return images

    told: list[StageStep] = []
    cache = Cache(tmp_path / "cache")
    first, again = (cache.made("poisoned", {"a": 1}, make, told.append) for _ in range(2))
    assert len(made) == len(told) == 1 and not first.shared and again.shared
    assert again.images.fingerprint() == again.fingerprint == images.fingerprint()
    assert again.images.class_names == images.class_names
    cache.made("poisoned", {"a": 2}, make, told.append)
    assert len(made) == 2, "other settings, another set"
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_two_at_a_time_make_a_set_once(tmp_path: Path) -> None:
    made: list[State] = []

    def make(state: State) -> ImageSet:
        made.append(state)
        time.sleep(0.3)
        return ImageSet.from_arrays(some_images(2))

    cache, big = Cache(tmp_path / "cache"), ImageSet.from_arrays(some_images(400))
    with ThreadPoolExecutor(4) as pool:
        for ended in [pool.submit(cache.made, "poisoned", {}, make, quiet) for _ in range(2)]:
            assert len(ended.result().images) == 2
        assert len({ended.result() for ended in [pool.submit(cache.keep, big) for _ in range(4)]}) == 1
    assert len(made) == 1
    assert cache.load(big.fingerprint()).fingerprint() == big.fingerprint()


def test_a_making_that_was_killed_goes_on_and_its_seconds_add_up(tmp_path: Path) -> None:
    cache, folders = Cache(tmp_path / "cache"), list[Path | None]()

    def make(state: State) -> ImageSet:
        folders.append(state.folder)
        time.sleep(0.2)
        state.tell("half", 1, 2)
        if len(folders) == 1:
            raise KeyboardInterrupt
        return ImageSet.from_arrays(some_images(2))

    with pytest.raises(KeyboardInterrupt):
        cache.made("poisoned", {}, make, quiet)
    kept = cache.made("poisoned", {}, make, quiet)
    assert folders[0] == folders[1] and kept.seconds >= 0.4


def test_the_seconds_of_a_denoiser_are_told_apart_from_those_of_the_set(tmp_path: Path) -> None:
    def make(state: State) -> ImageSet:
        time.sleep(0.2)
        state.tell("denoiser", 1, 1, seconds=77.0)
        time.sleep(0.1)
        return ImageSet.from_arrays(some_images(2))

    cache = Cache(tmp_path / "cache")
    began = time.monotonic()
    first = cache.made("prepared", {}, make, quiet)
    assert 0.1 <= first.seconds <= time.monotonic() - began - 0.2
    assert first.denoiser == cache.made("prepared", {}, make, quiet).denoiser == 77.0


def test_a_damaged_set_in_the_cache_is_named_with_the_remedy(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    fingerprint = cache.keep(ImageSet.from_arrays(some_images(2)))
    (path,) = (tmp_path / "cache" / "sets").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EclipseError, match=r"cannot be read .*; delete it, and it is made anew"):
        cache.load(fingerprint)
    cache.made("poisoned", {}, lambda state: ImageSet.from_arrays(some_images(2)), quiet)
    (path,) = (tmp_path / "cache" / "poisoned").glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EclipseError, match=r"cannot be read .*; delete it, and it is made anew"):
        cache.fingerprint("poisoned", {})


def test_a_cache_is_kept_from_version_control_unless_its_folder_has_rules_of_its_own(tmp_path: Path) -> None:
    for folder, before in ((tmp_path / "new", None), (tmp_path / "old", "keep\n")):
        if before:
            folder.mkdir()
            (folder / ".gitignore").write_text(before)
        Cache(folder).keep(ImageSet.from_arrays(some_images(2)))
        assert (folder / ".gitignore").read_text() == (before or "*\n")


def test_cells_share_the_poison_and_the_prepared_set(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eclipse.attacks.em import EM
    from eclipse.defenses.iss import ISSG

    calls: list[str] = []
    for cls, name in ((EM, "craft"), (ISSG, "prepare")):
        work: Callable[..., Any] = getattr(cls, name)
        monkeypatch.setattr(
            cls, name, lambda self, *a, work=work, name=name, **o: calls.append(name) or work(self, *a, **o)
        )
    bench = bench_of(data)
    results = [
        bench.run(Choice("em", defense, "small", seed), quiet) for defense in ("none", "iss-g") for seed in (0, 1)
    ]
    assert calls == ["craft", "prepare"]
    assert [r["seconds"]["poison shared"] for r in results] == [False, True, True, True]
    assert [r["seconds"]["prepare shared"] for r in results] == [False, False, False, True]
    assert len({r["attack"]["fingerprint"] for r in results}) == 1


# Cells


def test_a_result_tells_its_conditions_and_is_the_same_again(data: Path) -> None:
    bench, choice = bench_of(data), Choice("ops", "mixup", "small", 0)
    result, again = (bench.run(choice, quiet) for _ in range(2))
    assert result["accuracy"] == result["epochs"][-1]["accuracy"] == again["accuracy"]
    assert result["epochs"][-1]["loss"] == again["epochs"][-1]["loss"]
    assert result["recipe"]["epochs"] == 1 and result["data"]["train images"] == 40
    assert result["attack"]["name"] == "ops" and result["attack"]["norm"] == "L0"
    assert json.loads(json.dumps(result))["epochs"] == result["epochs"]
    other = bench.run(Choice("ops", "mixup", "small", 1), quiet)
    assert other["epochs"][-1]["loss"] != result["epochs"][-1]["loss"]


def test_a_cell_under_other_settings_is_another_cell(data: Path) -> None:
    choice = Choice("em", "mixup", "small", 0)
    changes = [("epochs = 1", "epochs = 2"), ("max_rounds=1", "max_rounds=2"), ('"train.npz"', '"train.npz[:30]"')]
    names = {bench_of(data, grid_of(data, *one)).name(choice) for one in ([], *([change] for change in changes))}
    assert len(names) == 4
    bench = bench_of(data)
    grid = bench.grid
    others = [
        replace(bench, grid=replace(grid, protocol="paper-overlap")),
        replace(bench, grid=replace(grid, attacks=replace(grid.attacks, seed=1))),
        replace(bench, grid=replace(grid, defenses=replace(grid.defenses, seed=1))),
        replace(bench, sets={**bench.sets, "test": "other"}),
        replace(bench, device="cuda"),
    ]
    assert len({bench.name(choice), *(other.name(choice) for other in others)}) == 6
    trusting = replace(choice, defense="trusted-only")
    assert replace(bench, sets={**bench.sets, "trusted": "other"}).name(trusting) != bench.name(trusting)
    assert bench_of(data).name(choice) == bench_of(data).name(choice)
    same = bench_of(data, grid_of(data, ('"ops", "em"]', '"em"]'), ("seeds_of.none = [0, 1]", "")))
    assert same.name(choice) == bench_of(data).name(choice), "other cells of the grid play no part"


def test_a_cell_under_a_changed_preset_is_another_cell_and_its_result_tells_the_numbers(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, choice = grid_of(data, ('"mixup"', '"eclipse-bc"')), Choice("ops", "eclipse-bc", "small", 0)
    bench = bench_of(data, grid)
    fields = bench.run(choice, quiet)["defense"]["fields"]
    assert (fields["p"], fields["noise"], fields["q"]) == (FAST.p, FAST.noise, FAST.q)
    monkeypatch.setitem(PRESETS, "fast", replace(FAST, p=0.1))
    assert bench_of(data, grid).name(choice) != bench.name(choice)


def test_cells_are_picked_by_their_parts_or_their_name(data: Path) -> None:
    bench = bench_of(data)

    def picked(*words: str) -> list[str]:
        return list(map(str, chosen(bench, words)))

    assert picked() == list(map(str, bench.grid.cells()))
    assert picked("em/none") == ["em-none-small-0", "em-none-small-1"]
    assert picked("*/iss-g", "ops/none/small/1") == [
        *(f"{a}-iss-g-small-0" for a in ("clean", "ops", "em")),
        "ops-none-small-1",
    ]
    name = bench.name(Choice("clean", "trusted-only", "small", 0))
    assert picked("clean-trusted-only-small-0") == picked(name) == ["clean-trusted-only-small-0"]
    with pytest.raises(EclipseError, match=r"unknown cell 'em-none-smal-0'; did you mean 'em-none-small-0'"):
        picked("em-none-smal-0")
    with pytest.raises(EclipseError, match=r"unknown cell 'esm/none'; did you mean 'em/none'"):
        picked("esm/none")


def test_the_command_of_a_cell_can_be_pasted_wherever_the_grid_lies(data: Path) -> None:
    (data / "my grid.toml").write_text(GRID)
    words = shlex.split(command_of(bench_of(data, read_grid(data / "my grid.toml")), Choice("em", "none", "small", 0)))
    assert words[:3] == ["eclipse", "bench", str(data / "my grid.toml")] and words[-1] == "em-none-small-0"


# Runs, in processes of their own


def test_what_is_missing_is_run_and_a_broken_cell_does_not_stop_the_rest(data: Path, command: Command) -> None:
    changes = [('"ops", "em"]', '"ops"]'), ('em = ["max_rounds=1", "batch=16"]\n', ""), ("[attacks.set]\n", "")]
    few = ('"trusted-only"]\nscale = "small"', '"one-step"]\nscale = "small"\nset.one-step = ["iterations=2"]')
    grid_of(data, *changes, few)
    out = data / "results"
    options = ("bench", data / "grid.toml", "--data", data, "--out", out)
    assert command(*options, "--cell", "*/none/small/0").code == 0
    done = sorted((out / "cells").iterdir())
    assert len(done) == 2
    times = [path.stat().st_mtime_ns for path in done]
    save(data / "trusted.npz", 40, seed=2)  # too few for a denoiser
    said = command(*options, "--cell", "clean/none", "--cell", "clean/one-step", "--jobs", "2")
    assert said.code == 1 and "1 cells broke" in said.err, said
    (broken,) = (out / "failed").iterdir()
    reason = json.loads(broken.read_text())
    assert "at least 50" in one_sentence(reason["error"])
    assert reason["command"].endswith("--cell clean-one-step-small-0")
    assert len(list((out / "cells").iterdir())) == 3
    assert [path.stat().st_mtime_ns for path in done] == times, "finished cells were left alone"
    save(data / "trusted.npz", 50, seed=2)
    assert command(*options, "--cell", "clean/one-step").code == 0
    grid = json.loads((out / "grid.json").read_text())
    assert {path.stem for path in (out / "cells").iterdir()} <= {cell["cell"] for cell in grid["cells"]}


def test_a_report_shows_the_grid_that_was_asked_for_last_and_a_lost_grid_file_costs_no_cell(
    data: Path, command: Command
) -> None:
    out = data / "results"
    options = ("bench", data / "grid.toml", "--data", data, "--out", out, "--cell", "clean/none")
    assert command(*options).code == 0
    (data / "grid.toml").write_text(GRID.replace("none = [0, 1]", "none = [0]"))
    assert command(*options).code == 0, "nothing is missing"
    assert "clean-none-small-1" not in (out / "grid.json").read_text()
    times = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    (out / "grid.json").unlink()  # the advice of a report that finds it damaged
    assert command(*options).code == 0
    assert times == {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert (out / "grid.json").exists()


def test_a_process_that_is_killed_breaks_its_cell_only(data: Path) -> None:
    bench, results = bench_of(data), Results(data / "results")
    steps: list[CellStep] = []

    def kill_the_first(step: CellStep) -> None:
        if step.what == "works" and not any(s.what == "works" for s in steps):
            for child in multiprocessing.active_children():
                child.kill()
        steps.append(step)

    cells = chosen(bench_of(data, grid_of(data, ("epochs = 1", "epochs = 30"))), ["clean/none"])
    slow = replace(bench, grid=grid_of(data, ("epochs = 1", "epochs = 30")))
    assert run_cells(slow, results, cells, 1, kill_the_first) == 1
    assert [step.what for step in steps if step.what != "works"] == ["failed", "done"]
    assert "signal 9" in next(step.reason for step in steps if step.what == "failed")


def test_ctrl_c_term_and_kill_lose_no_finished_cell_and_the_same_command_goes_on(data: Path) -> None:
    out = data / "results"
    arguments = [COMMAND, "bench", "grid.toml", "--data", ".", "--out", str(out), "--cell", "*/none"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before = len(list((out / "cells").glob("*.json")))
        process = subprocess.Popen(arguments, cwd=data, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        while process.poll() is None and len(list((out / "cells").glob("*.json"))) <= before:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]  # returns when no worker holds the pipe any more
        assert process.returncode in (code, 0), said
    assert len(list((out / "cells").glob("*.json"))) >= 3
    ended = subprocess.run(arguments, cwd=data, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(list((out / "cells").glob("*.json"))) == 6 and not list(out.glob("**/.*.partial"))
    assert not (out / "failed").exists(), "a process whose main process was killed is no broken cell"


# Refusals of the command


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cell", "en"], "unknown cell 'en'"),
        (["--device", "cuda:7"], "device 'cuda:7' is not here"),
        (["--out", "{data}"], "holds no results of a grid; choose another --out"),
    ],
)
def test_what_cannot_be_run_is_refused_and_nothing_is_written(
    data: Path, command: Command, options: list[str], said: str
) -> None:
    before = sorted(data.iterdir())
    options = [option.format(data=data) for option in options]
    assert said in refusal(command("bench", data / "grid.toml", "--data", data, "--out", data / "results", *options))
    assert sorted(data.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"version": 0, "name": "tiny"}', "was made by a grid of version 0, this is 1"),
        ('{"version": 1, "name": "other"}', "holds the grid 'other' and this is 'tiny'"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_the_results_of_another_grid_are_left_untouched(data: Path, command: Command, content: str, said: str) -> None:
    (data / "results").mkdir()
    (data / "results" / "grid.json").write_text(content)
    assert said in refusal(command("bench", data / "grid.toml", "--data", data, "--out", data / "results"))
    assert [path.name for path in (data / "results").iterdir()] == ["grid.json"]
    assert (data / "results" / "grid.json").read_text() == content


def test_a_dry_run_prints_cells_and_cost_and_writes_nothing(data: Path, command: Command) -> None:
    before = sorted(data.iterdir())
    said = command("bench", data / "grid.toml", "--data", data, "--out", data / "results", "--dry-run")
    assert said.code == 0 and "em-mixup-small-0-" in said.out and "hours in one process" in said.out
    assert "poisons, each crafted once" in said.out
    assert "known when a cell of each is finished: iss-g, trusted-only" in said.out
    assert sorted(data.iterdir()) == before


def test_the_cost_counts_only_poisons_that_are_still_to_be_crafted(data: Path) -> None:
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert set(asked.cost().poisons) == {"ops", "em"}
    asked.keep_sets()
    asked.bench.poisoned("ops", quiet)
    assert set(asked.cost().poisons) == {"em"}


def test_the_cost_of_a_defense_is_that_of_finished_cells_or_a_multiple_of_the_undefended(data: Path) -> None:
    grid = grid_of(data, ('"mixup"', '"mixup", "at"'))
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    for name, minutes in {"clean-none-small-0": 2, "ops-none-small-0": 4, "em-mixup-small-0": 9}.items():
        (finished,) = (cell for cell in asked.missing if str(cell) == name)
        path = asked.results.finished(asked.bench.name(finished))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"seconds": {"prepare": 60.0, "train": 60.0 * (minutes - 1)}}))
    cells = {str(cell): minutes for cell, minutes in asked.cost().cells.items()}
    assert cells["clean-none-small-1"] == 2 and cells["clean-mixup-small-0"] == 8
    assert cells["clean-at-small-0"] == 2 * grid.defense("at").cost() > 4


def test_the_cost_of_a_preparation_counts_once_for_all_seeds_until_it_is_in_the_cache(data: Path) -> None:
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert asked.cost().prepared == {}
    asked.keep_sets()
    (one,) = (cell for cell in asked.missing if str(cell) == "ops-iss-g-small-0")
    path = asked.results.finished(asked.bench.name(one))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": {"prepare": 120.0, "train": 60.0}}))
    attacks = {cell.attack for cell in asked.missing}
    assert asked.cost().prepared == {"iss-g": 2.0 * len(attacks)}
    asked.bench.run(one, quiet)
    assert asked.cost().prepared == {"iss-g": 2.0 * (len(attacks) - 1)}


# The grids that come with the project


@pytest.mark.parametrize("name", ["cpu", "paper", "smoke"])
def test_the_grids_of_the_project_are_read(name: str) -> None:
    grid = read_grid(BENCHMARKS / f"{name}.toml")
    assert grid.name == name and grid.protocol == "held-out"
    assert {cell.attack for cell in grid.cells()} == set(grid.attacks.names)


@pytest.mark.slow
def test_the_smoke_grid_goes_through_every_part(tmp_path: Path, command: Command) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    embedded = importlib.import_module("embedded")
    embedded.write(tmp_path / "data")
    out = tmp_path / "results"
    said = command("bench", BENCHMARKS / "smoke.toml", "--data", tmp_path / "data", "--out", out, "--jobs", "2")
    assert said.code == 0, said.err
    results = [json.loads(path.read_text()) for path in (out / "cells").iterdir()]
    assert len(results) == 12 and {len(result["epochs"]) for result in results} == {3}
    prepared = {result["defense"]["name"] for result in results if result["seconds"]["prepare"] > 0}
    assert prepared == {"iss-j", "eclipse"}
    assert command("report", out).code == 0
    page = (out / "report.html").read_text()
    assert "digits on photographs" in page and all(result["command"].split()[-1] in page for result in results)
