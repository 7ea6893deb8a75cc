"""A small grid on noise, in files."""

from pathlib import Path

import numpy as np
from kit.tiny import some_images

from eclipse.bench.cache import Cache
from eclipse.bench.cell import Bench
from eclipse.bench.grid import Grid, read_grid
from eclipse.bench.plan import load_imported, load_sets

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
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


def write_data(folder: Path) -> Path:
    """The grid and its sets."""
    for seed, (name, count) in enumerate({"train": 40, "test": 12, "trusted": 50}.items()):
        save(folder / f"{name}.npz", count, seed=seed)
    (folder / "grid.toml").write_text(GRID)
    return folder


def grid_of(data: Path, *changes: tuple[str, str]) -> Grid:
    text = GRID
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (data / "grid.toml").write_text(text)
    return read_grid(data / "grid.toml")


def bench_of(data: Path, grid: Grid | None = None) -> Bench:
    grid, cache = grid or grid_of(data), Cache(data / "cache")
    sets = {name: cache.keep(images) for name, images in load_sets(grid, data).items()}
    train = cache.load(sets["train"])
    imported = {name: cache.keep(load_imported(grid, data, name, train)[0]) for name in grid.attacks.imported}
    return Bench(grid, sets, data / "cache", "cpu", imported=imported)


def quiet(step: object) -> None:
    pass
