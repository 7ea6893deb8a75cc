"""Results of a grid as its runner writes them, in figures that are easy to compute with."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from eclipse.bench.result import (
    CLEAN,
    HELD_OUT,
    Asked,
    Attack,
    Data,
    Defense,
    Epoch,
    Folder,
    Recipe,
    Result,
    Seconds,
    Victim,
)

DATA = Data(
    name="CIFAR-10 (JPEG copy)",
    train="train[:100]",
    test="test[:50]",
    trusted="train[100:]",
    clean=None,
    train_images=100,
    test_images=50,
    trusted_images=20,
    image=(3, 32, 32),
    classes=10,
    fingerprints={"train": "set of train"},
)
SECONDS = Seconds(poison=60.0, poison_shared=False, prepare=0.0, prepare_shared=False, denoiser=0.0, train=100.0)


def result(
    attack: str,
    defense: str,
    seed: int,
    accuracy: float,
    *,
    arch: str = "small",
    recipe: str = "fast",
    trusted: str = "nothing",
    ignores_data: bool = False,
    seconds: dict[str, float] | None = None,
    **others: Any,
) -> Result:
    """A finished cell; others are fields of its record."""
    bound: dict[str, Any] = {"scale": "small", "seed": 0, "norm": "Linf", "radius": 8 / 255, "fields": {"steps": 20}}
    fields: dict[str, Any] = {
        "cell": f"{attack}-{defense}-{arch}-{seed}-0a1b2c3d",
        "grid": "test",
        "protocol": HELD_OUT,
        "data": DATA,
        "attack": Attack(attack, f"set of {attack}", **({} if attack == CLEAN else bound)),
        "defense": Defense(
            name=defense,
            title=f"the defense {defense}",
            scale="small",
            seed=0,
            fields={},
            trusted=trusted,
            acts="data",
            ignores_data=ignores_data,
            cost=1.2,
        ),
        "victim": Victim(arch, 221026),
        "recipe": Recipe(recipe, {"epochs": 2, "lr": 0.2, "milestones": []}),
        "seed": seed,
        "accuracy": accuracy,
        "epochs": tuple(Epoch(epoch, 1.5, 0.5, 900.0, accuracy * epoch / 2) for epoch in (1, 2)),
        "seconds": replace(SECONDS, **(seconds or {})),  # type: ignore[arg-type]
        "device": "AVX2 processor, 1 thread",
        "versions": {"python": "3.11.7"},
        "finished": "2026-11-22 22:00:00 +0000",
        "command": f"eclipse bench grid.toml --out RESULTS --cell {attack}-{defense}-{arch}-{seed}",
    }
    return Result(**{**fields, **others})


def write_results(path: Path, cells: Iterable[Result], unfinished: Iterable[Result] = ()) -> Folder:
    """A folder of results: finished cells, and those of the grid that are not."""
    folder, cells = Folder(path), list(cells)
    path.mkdir(parents=True)
    planned = tuple(one.planned for one in (*cells, *unfinished))
    folder.begin(Asked(name="test", protocol=HELD_OUT, data={}, cells=planned))
    for one in cells:
        folder.keep(one)
    return folder
