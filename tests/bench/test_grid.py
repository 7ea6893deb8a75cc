"""What is read of a grid is checked, and mistakes are named with their line."""

import sys
from pathlib import Path

import pytest
from kit.grids import BENCHMARKS, grid_of
from kit.tiny import one_sentence

from eclipse.bench.grid import read_grid
from eclipse.errors import EclipseError


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


def test_a_defense_that_ignores_the_data_is_run_once_for_a_grid_without_clean_data(data: Path) -> None:
    cells = list(map(str, grid_of(data, ('"clean", "ops"', '"ops"')).cells()))
    assert [cell for cell in cells if "trusted-only" in cell] == ["ops-trusted-only-small-0"]


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
        ('train = "train.npz"', 'train = "train.npz"\nresize = 0', "line 7: resize = 0; expected 1 to 8192 pixels"),
        ('train = "train.npz"', 'train = "train.npz"\nresize = "9"', "line 7: resize = '9'; expected a whole number"),
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


def test_a_missing_package_is_said_before_any_cell_is_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(EclipseError, match=r"line 17: this needs the package 'opacus', .*pip install"):
        grid_of(data, ('"mixup"', '"dp-sgd"'))


@pytest.mark.parametrize("name", ["cpu", "paper", "poisons", "smoke"])
def test_the_grids_of_the_project_are_read(name: str) -> None:
    grid = read_grid(BENCHMARKS / f"{name}.toml")
    assert grid.name == name and grid.protocol == "held-out"
    assert {cell.attack for cell in grid.cells()} == set(grid.attacks.names)
