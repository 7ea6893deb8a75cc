"""``train``, ``denoiser train`` and ``bench``, killed for real (-9): the same command ends with the same result."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from kit.commands import write_images
from kit.kills import manifest, names
from kit.layouts import tree_bytes
from kit.small_run import Kill, ended

RUNS = {
    "train": (
        ["train", "{data}/images", "--test", "{data}/test", "--arch", "small", "--epochs", "12"],
        [Kill("saved state", 1), Kill("saved state", 1, 0.02), Kill("saved state", 2)],
    ),
    "denoiser train": (
        ["denoiser", "train", "{data}/trusted", "--iterations", "30"],
        [Kill("training step", 1), Kill("saved state", 5), Kill("saved state", 5, 0.013), Kill("saved state", 12)],
    ),
}
TIMES = ("seconds", "date", "epochs")  # an epoch has its speed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, (name, count) in enumerate({"images": 40, "test": 10, "trusted": 50}.items()):
        write_images(tmp_path / name, count, side=16, seed=seed)
    return tmp_path


def made(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, content in tree_bytes(folder / "out").items():
        found[name] = content
        if name.endswith(".json"):
            facts = json.loads(content)
            facts |= facts.pop("trained", {})
            found[name] = {key: value for key, value in facts.items() if key not in TIMES}
    return found


@pytest.mark.parametrize("what", RUNS)
def test_killed_at_any_moment_a_training_ends_with_the_same_bytes(data: Path, what: str) -> None:
    words, kills = RUNS[what]

    def go(folder: Path, kill: Kill | None = None) -> int:
        folder.mkdir(exist_ok=True)
        given = [word.format(data=data) for word in words]
        return ended([*given, "--out", f"{folder}/out"], folder / "log", kill)

    undisturbed, killed = data / "undisturbed", data / "killed"
    assert go(undisturbed) == 0, (undisturbed / "log").read_text()
    for kill in kills:
        assert go(killed, kill) == -signal.SIGKILL, (killed / "log").read_text()
    assert go(killed) == 0, (killed / "log").read_text()
    assert made(killed) == made(undisturbed) and manifest(killed / "out")["status"] == "complete"
    assert names(killed) == names(undisturbed) == ["log", "out", "out.run.json"]


GRID = """
version = 1
name = "two cells"
data = {name = "noise", train = "images", test = "test"}
attacks = {names = ["clean", "em"], scale = "small", set = {em = ["max_rounds=1", "batch=16"]}}
defenses = {names = ["iss-g"]}
victims = {archs = ["small"], epochs = 2}
"""


def test_killed_at_any_moment_a_grid_ends_with_the_same_cells(data: Path) -> None:
    (data / "grid.toml").write_text(GRID)

    def go(folder: Path, kill: Kill | None = None) -> int:
        folder.mkdir(exist_ok=True)
        words = ["bench", f"{data}/grid.toml", "--data", f"{data}", "--out", f"{folder}/out"]
        return ended(words, folder / "log", kill)

    def cells(folder: Path) -> dict[str, Any]:
        lines = map(json.loads, (folder / "out" / "cells.jsonl").read_text().splitlines())
        return {
            line["cell"]: {word: line[word] for word in ("accuracy", "attack", "data", "defense", "prepared", "recipe")}
            for line in lines
        }

    undisturbed, killed = data / "undisturbed", data / "killed"
    assert go(undisturbed) == 0, (undisturbed / "log").read_text()
    for kill in (Kill("word of a cell", 1, 0.02), Kill("kept cell", 1), Kill("word of a cell", 2, 0.05)):
        assert go(killed, kill) == -signal.SIGKILL, (killed / "log").read_text()
    assert len(cells(killed)) == 1, "one cell was done before the kills"
    assert go(killed) == 0, (killed / "log").read_text()
    assert cells(killed) == cells(undisturbed) and len(cells(killed)) == 2
    left = {path.name for path in (killed / "out").rglob("*") if path.is_file()}
    assert left == {path.name for path in (undisturbed / "out").rglob("*") if path.is_file()}
