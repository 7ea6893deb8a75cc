"""What docs/extend.md shows: it is the package tests/plugin, and all of it works, installed or as files."""

import ast
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Command, write_images
from kit.letters import shapes
from kit.tiny import CONFIG, random_weights, some_images

import eclipse
from eclipse.attacks import ATTACKS
from eclipse.data.source import load_imageset, open_source
from eclipse.defenses import DEFENSES
from eclipse.detectors import DETECTORS, evidence
from eclipse.diffusion import build_denoiser, save_denoiser

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "tests" / "plugin"
PAGE = (ROOT / "docs" / "extend.md").read_text()
COMMANDS = re.findall(r"^eclipse .*$", PAGE, re.MULTILINE)
KITS = ("attacks", "defenses", "classifiers", "data", "detectors", "diffusion")

GRID = """
version = 1
name = "of others"
data = {name = "noise", train = "photos", test = "held-out"}
attacks = {names = ["stripes", "stripes:Stripes"], set = {"stripes:Stripes" = ["eps=6"]}}
defenses = {names = ["posterize", "posterize:Posterize"]}
victims = {archs = ["linear", "linear:Linear"], epochs = 1}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with images, and with the files of the page beside them."""
    write_images(tmp_path / "photos", 12, side=16)
    write_images(tmp_path / "held-out", 6, side=16, seed=1)
    for name in ("stripes", "posterize", "linear"):
        shutil.copy(PLUGIN / "eclipse_example" / f"{name}.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_shows_the_package() -> None:
    shown = dict(re.findall(r"^`(\S+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    assert len(shown) == 7
    for name, text in shown.items():
        assert text == re.sub(r"^fake = .*\n", "", (PLUGIN / name).read_text(), flags=re.MULTILINE), name


def test_the_commands_of_the_page_work(place: Path, plugin: None, command: Command) -> None:
    assert len(COMMANDS) == 6
    for line in COMMANDS:
        said = command(*shlex.split(line)[1:])
        assert said.code == 0, (line, said)
    clean, striped, more = (
        load_imageset(open_source(name), "a test").images.astype(int) for name in ("photos", "striped", "striped-2")
    )
    assert abs(striped - clean).max() == 6 and abs(more - clean).max() == 8
    for run in ("run", "run-2"):
        result = json.loads((place / run / "result.json").read_text())
        assert result["parameters"] == 2 * (3 * 64 + 1) and result["counts"]["prepared images"] == 12
    assert result["defense"]["name"] == "posterize" and result["defense"]["code"].startswith("eclipse-example 1.0 ")
    assert result["arch code"].startswith("eclipse-example 1.0 ")


def test_the_names_stand_in_the_tables_with_their_package(plugin: None, command: Command) -> None:
    for table, name in (("attacks", "stripes"), ("defenses", "posterize"), ("detectors", "corners")):
        assert name in command(table).out and "[eclipse-example 1.0]" in command(table, name).out


def test_a_detector_of_others_takes_part_in_an_audit(plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LEAST_STEPS", 60)
    clean = shapes(300, 1)
    marked = clean.with_images(clean.images.copy())
    corner = np.array([(0, 0), (0, -1), (-1, 0), (-1, -1)])[clean.require_labels("a test")]
    marked.images[np.arange(300), :, corner[:, 0], corner[:, 1]] = 255
    found = [eclipse.audit(data, detectors=["corners"]) for data in (clean, marked)]
    assert [audit.suspicious for audit in found] == [False, True] and found[1].family == "class-wise"
    assert "corners" in DETECTORS.foreign() and found[1].found == ("corners",)


def test_a_layout_and_a_network_of_others_take_part_in_a_purification(
    place: Path, plugin: None, command: Command
) -> None:
    np.save("images.npy", some_images(9, 16, 16).transpose(0, 2, 3, 1))
    denoiser = build_denoiser(replace(CONFIG, architecture="plain", options={"width": 4}))
    random_weights(denoiser)
    save_denoiser(denoiser, place / "denoiser")
    said = command("purify", "images.npy[1:8]", "--denoiser", "denoiser", "--out", "purified.npy")
    assert said.code == 0, said
    before, after = np.load("images.npy"), np.load("purified.npy")
    assert after.shape == (7, 16, 16, 3) and after.dtype == np.uint8 and (after != before[1:8]).any()
    assert load_imageset(open_source("purified.npy"), "a test").ids == tuple(map(str, range(7)))


def test_a_grid_takes_names_of_packages_and_files(
    place: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, since the processes that run the cells have the folder where that one began."""
    (place / "grid.toml").write_text(GRID)
    monkeypatch.syspath_prepend(installed)
    code = f"import sys; sys.path[:] = {sys.path!r}; from eclipse.cli import main; main()"
    bench = [sys.executable, "-c", code, "bench", "grid.toml", "--data", ".", "--out", "results", "--jobs", "1"]
    done = subprocess.run(bench, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (place / "results" / "cells.jsonl").read_text().splitlines())
    cells = {line["cell"][:-9]: line for line in lines}
    assert set(cells) == {
        f"{attack}-{defense}-{arch}-0"
        for attack in ("stripes", "stripes-Stripes")
        for defense in ("posterize", "posterize-Posterize")
        for arch in ("linear", "linear-Linear")
    }
    of_file = cells["stripes-Stripes-posterize-Posterize-linear-Linear-0"]
    of_package = cells["stripes-posterize-linear-0"]
    assert of_file["attack"]["name"] == "stripes:Stripes" and of_file["attack"]["radius"] == 6 / 255
    for part in ("attack", "defense", "victim"):
        assert of_package[part]["code"] == f"eclipse-example 1.0 {of_file[part]['code']}", "it is the same file"


# The kits


@pytest.mark.parametrize("part", KITS)
def test_a_kit_is_found_in_its_package(part: str) -> None:
    package, kit = import_module(f"eclipse.{part}"), import_module(f"eclipse.{part}.kit")
    names = [name for name in vars(kit) if not name.startswith("_")]
    assert names and all(getattr(package, name) is getattr(kit, name) for name in names)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(names), "a module would hide the name once it is imported"
    with pytest.raises(ImportError):
        exec(f"from eclipse.{part} import no_such_name")


@pytest.mark.parametrize("table", [ATTACKS, DEFENSES], ids=lambda table: table.kind)
def test_the_kit_holds_what_the_built_in_methods_need(table: object) -> None:
    """But for machinery of a single method, and for other methods."""
    kit = import_module(f"eclipse.{table.kind}s")
    methods = {table.entry(name).module for name in table.names()} - {"eclipse.defenses.defense"}
    single = {"eclipse.attacks.crafting.ar_process", "eclipse.defenses.disentangling", "eclipse.defenses.choice"}
    single |= {"eclipse.detectors.audit"}
    for module in methods:
        path = Path(eclipse.__file__).parent.parent / f"{module.replace('.', '/')}.py"
        for node in ast.walk(ast.parse(path.read_text())):
            ours = isinstance(node, ast.ImportFrom) and str(node.module).startswith("eclipse.")
            if ours and node.module not in methods | single:
                missing = [alias.name for alias in node.names if not hasattr(kit, alias.name)]
                assert not missing, f"{module} needs {missing} of {node.module}"


def test_the_package_imports_from_kits_alone() -> None:
    allowed = {f"eclipse.{part}" for part in KITS}
    for path in (PLUGIN / "eclipse_example").glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert {node.module for node in nodes if str(node.module).startswith("eclipse")} <= allowed, path
