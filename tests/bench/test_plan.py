"""What a run is asked for: its sets fit each other, what cannot be run is refused, and the cost is told."""

import re
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command, refusal
from kit.grids import OVERLAP, grid_of, quiet, save
from kit.results import result

from eclipse.bench.grid import Choice
from eclipse.bench.plan import Plan, load_sets, plan
from eclipse.errors import EclipseError
from eclipse.runs.manifest import OURS, versions


def test_test_images_among_the_trusted_ones_are_refused_but_for_the_papers_protocol(data: Path) -> None:
    overlap = ('trusted = "trusted.npz"', 'trusted = "test.npz"')
    with pytest.raises(EclipseError, match=r"12 rows of .*test.npz are in .*trusted"):
        load_sets(grid_of(data, overlap), data)
    papers = grid_of(data, overlap, OVERLAP)
    assert len(load_sets(papers, data)["test"]) == 12
    with pytest.raises(EclipseError, match=r"12 rows of .* are in .*train"):
        load_sets(
            grid_of(data, ('"train.npz"', '"test.npz"'), OVERLAP),
            data,
        )


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


def finish(asked: Plan, cell: Choice, **seconds: float) -> None:
    """Keep a result of a cell that took these seconds."""
    asked.results.path.mkdir(exist_ok=True)
    name = asked.bench.name(cell)
    asked.results.keep(result(cell.attack, cell.defense, cell.seed, 0.5, cell=name, seconds=seconds))


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
        finish(asked, finished, prepare=60.0, train=60.0 * (minutes - 1))
    cells = {str(cell): minutes for cell, minutes in asked.cost().cells.items()}
    assert cells["clean-none-small-1"] == 2 and cells["clean-mixup-small-0"] == 8
    assert cells["clean-at-small-0"] == 2 * grid.defense("at").cost() > 4


def test_the_cost_of_a_preparation_counts_once_for_all_seeds_until_it_is_in_the_cache(data: Path) -> None:
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert asked.cost().prepared == {}
    asked.keep_sets()
    (one,) = (cell for cell in asked.missing if str(cell) == "ops-iss-g-small-0")
    finish(asked, one, prepare=120.0, train=60.0)
    attacks = {cell.attack for cell in asked.missing}
    assert asked.cost().prepared == {"iss-g": 2.0 * len(attacks)}
    asked.bench.run(one, quiet)
    assert asked.cost().prepared == {"iss-g": 2.0 * (len(attacks) - 1)}


def test_cells_of_another_version_of_this_package_are_told_and_stay(data: Path, command: Command) -> None:
    options = ("bench", data / "grid.toml", "--data", data, "--out", data / "results", "--dry-run")
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    ours = versions()[OURS]
    made = {"clean-none-small-0": ours, "ops-none-small-0": "0.0.8", "em-none-small-0": "0.0.8"}
    for cell in asked.missing:
        if str(cell) in made:
            name = asked.bench.name(cell)
            asked.results.path.mkdir(exist_ok=True)
            asked.results.keep(
                result(cell.attack, cell.defense, cell.seed, 0.5, cell=name, versions={OURS: made[str(cell)]})
            )
    asked.results.keep(result("em", "none", 7, 0.5, cell="of another grid", versions={OURS: "0.0.1"}))
    said = command(*options)
    (note,) = re.findall(r"^note: (.*)$", said.out, re.MULTILINE)
    assert note.startswith(f"of the finished cells, 2 are of {OURS} 0.0.8, and this is {ours}: they stay")
    assert "10 of 13 to do" in said.out and "em-none-small-0" not in said.out, "they are not run again"
    with asked.results.writing(asked.bench.asked()):
        pass
    assert command("report", data / "results").code == 0
    report = (data / "results" / "report.md").read_text()
    assert f"several versions of {OURS}: 0.0.8 (2 cells), {ours} (1 cells)" in report


def test_cells_of_this_version_alone_need_no_word(data: Path) -> None:
    asked = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert asked.notes() == []
    finish(asked, asked.missing[0])
    again = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert "an unknown version" in again.notes()[0], "its line does not say"
    asked.results.keep(result("clean", "none", 0, 0.5, cell=asked.bench.name(asked.missing[0]), versions=versions()))
    again = plan(data / "grid.toml", data, data / "results", cells=(), cache=data / "cache", device="cpu")
    assert again.notes() == []
