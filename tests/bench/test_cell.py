"""What decides a cell, and what its result tells."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.commands import Command, write_images
from kit.grids import GRID, bench_of, grid_of, quiet, save

from eclipse.bench.grid import Choice, read_grid
from eclipse.bench.plan import load_sets
from eclipse.data.imageset import ImageSet
from eclipse.diffusion.presets import FAST, PRESETS
from eclipse.errors import EclipseError


def test_a_result_tells_its_conditions_and_is_the_same_again(data: Path) -> None:
    bench, choice = bench_of(data), Choice("ops", "mixup", "small", 0)
    result, again = (bench.run(choice, quiet) for _ in range(2))
    assert result.accuracy == result.epochs[-1].accuracy == again.accuracy
    assert result.epochs[-1].loss == again.epochs[-1].loss
    assert result.recipe.fields["epochs"] == len(result.epochs) == 1 and result.data.train_images == 40
    assert result.attack.name == "ops" and result.attack.norm == "L0"
    assert result.planned in bench.asked().cells
    other = bench.run(Choice("ops", "mixup", "small", 1), quiet)
    assert other.epochs[-1].loss != result.epochs[-1].loss


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


def test_a_grid_of_images_of_many_sizes_is_run_when_it_names_one(data: Path, command: Command) -> None:
    for seed, (name, count) in enumerate({"train": 40, "test": 12}.items()):
        write_images(data / name, count, side=16, seed=seed)
        write_images(data / name, 2, side=24, seed=seed)  # in place of the first two
    photos = ('"train.npz"', '"train"'), ('"test.npz"', '"test"'), ('trusted = "trusted.npz"', "")
    few = ('"mixup", "trusted-only"', '"mixup"')
    with pytest.raises(EclipseError, match=r"expected one size for a grid: name it in \[data\], such as resize = 64"):
        load_sets(grid_of(data, *photos, few), data)
    choice, found = Choice("clean", "none", "small", 0), []
    for side in (20, 16):
        grid = grid_of(data, *photos, few, ('name = "noise"', f'name = "noise"\nresize = {side}'))
        found.append(bench_of(data, grid).run(choice, quiet))
    assert [result.data.image for result in found] == [(3, 20, 20), (3, 16, 16)]
    assert [result.data.resize for result in found] == [20, 16] and found[0].cell != found[1].cell
    options = ("bench", data / "grid.toml", "--data", data, "--out", data / "results", "--cell", "clean/none/small/0")
    said = command(*options)
    assert said.code == 0 and "resized to 16x16" in said.out, said
    assert command("report", data / "results").code == 0
    assert "| resized to | 16 |" in (data / "results" / "report.md").read_text()


def test_a_cell_under_a_changed_preset_is_another_cell_and_its_result_tells_the_numbers(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, choice = grid_of(data, ('"mixup"', '"eclipse-bc"')), Choice("ops", "eclipse-bc", "small", 0)
    bench = bench_of(data, grid)
    fields = bench.run(choice, quiet).defense.fields
    assert (fields["p"], fields["noise"], fields["q"]) == (FAST.p, FAST.noise, FAST.q)
    monkeypatch.setitem(PRESETS, "fast", replace(FAST, p=0.1))
    assert bench_of(data, grid).name(choice) != bench.name(choice)


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
    assert [r.seconds.poison_shared for r in results] == [False, True, True, True]
    assert [r.seconds.prepare_shared for r in results] == [False, False, False, True]
    assert len({r.attack.fingerprint for r in results}) == 1


def test_the_large_clean_set_is_kept_apart_from_the_test_images_and_is_what_avatar_gets(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ('trusted = "trusted.npz"', 'trusted = "trusted.npz"\nclean = "clean.npz"')
    save(data / "clean.npz", 60, seed=7)
    grid = grid_of(data, named, ('"mixup"', '"mixup", "avatar"'))
    bench, got = bench_of(data, grid), list[ImageSet]()

    def prepare(self: object, images: ImageSet, trusted: ImageSet, work: object) -> ImageSet:
        got.append(trusted)
        return images

    monkeypatch.setattr("eclipse.defenses.avatar.AVATAR.prepare", prepare)
    bench.run(Choice("clean", "avatar", "small", 0), quiet)
    assert got[0].fingerprint() == bench.sets["clean"] != bench.sets["trusted"]
    with pytest.raises(EclipseError, match=r"12 rows of .* \(clean\), too"):
        load_sets(grid_of(data, (named[0], named[1].replace("clean.npz", "test.npz"))), data)


def test_the_command_of_a_cell_can_be_pasted_wherever_the_grid_lies(data: Path) -> None:
    (data / "my grid.toml").write_text(GRID)
    bench = bench_of(data, read_grid(data / "my grid.toml"))
    words = shlex.split(bench.command(Choice("em", "none", "small", 0)))
    assert words[:3] == ["eclipse", "bench", str(data / "my grid.toml")] and words[-1] == "em-none-small-0"


PLUGIN = Path(__file__).parents[1] / "plugin" / "eclipse_example"
OF_A_USER = (
    ('"ops", "em"]\nscale', '"ops", "em", "stripes:Stripes"]\nscale'),
    ('em = ["max_rounds=1", "batch=16"]', 'em = ["max_rounds=1", "batch=16", "arch=linear:Linear"]'),
    ('"mixup", "trusted-only"', '"posterize:Posterize"'),
    ('["small"]', '["small", "linear:Linear"]'),
)


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        ("stripes", lambda cell: cell.attack == "stripes:Stripes"),
        ("posterize", lambda cell: cell.defense == "posterize:Posterize"),
        ("linear", lambda cell: cell.attack == "em" or cell.arch == "linear:Linear"),
        ("waves", lambda cell: cell.attack == "stripes:Stripes"),
        ("deeper.waves", lambda cell: cell.attack == "stripes:Stripes"),
        ("unused", lambda cell: False),
    ],
)
def test_cells_of_other_code_of_the_users_are_other_cells(
    data: Path, monkeypatch: pytest.MonkeyPatch, changed: str, affected: Callable[[Choice], bool]
) -> None:
    """Where the file is changed, or one that it imports from beside it: no cell of old code stands for the new one."""
    (data / "deeper").mkdir()
    for name in ("stripes", "posterize", "linear"):
        (data / f"{name}.py").write_text((PLUGIN / f"{name}.py").read_text())
    for name in ("waves", "unused", "deeper.waves"):
        (data / f"{name.replace('.', '/')}.py").write_text("HEIGHT = 1\n")
    (data / "waves.py").write_text("from deeper import waves\n")
    (data / "stripes.py").write_text((data / "stripes.py").read_text() + "from waves import waves as _\n")
    monkeypatch.chdir(data)

    def names() -> dict[Choice, str]:
        for module in ("stripes", "posterize", "linear", "waves", "deeper", "deeper.waves"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        bench = bench_of(data, grid_of(data, *OF_A_USER))
        return {choice: bench.name(choice) for choice in bench.grid.cells()}

    before = names()
    path = data / f"{changed.replace('.', '/')}.py"
    path.write_text(path.read_text() + "# changed\n")
    after = names()
    assert {choice for choice, name in before.items() if after[choice] != name} == set(filter(affected, before))
