"""The results of a benchmark grid as its runner wrote them: the plan, one file a finished cell, one a failed cell."""

from dataclasses import dataclass, field
from pathlib import Path

from eclipse.bench.fields import Fields, damaged, read_fields
from eclipse.errors import EclipseError

VERSION = 1
CLEAN, NONE = "clean", "none"
"""The attack that leaves the images as they are, and the defense that does nothing."""
OVERLAP = "paper-overlap"
"""The protocol of the paper, in which the trusted images are among the test images."""

_LONGEST = 400  # characters of an error; of a longer one, such as that of a bug, the end tells most


@dataclass(frozen=True)
class Plan:
    """A cell that the grid asks for."""

    id: str
    attack: str
    defense: str
    arch: str
    recipe: str
    seed: int


@dataclass(frozen=True)
class Data:
    """The data of a cell: its name, the slices, and how many images they have."""

    name: str
    slices: tuple[tuple[str, str], ...]
    train: int
    test: int
    trusted: int | None
    image: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Attack:
    """What made the poison of a cell; ``norm`` is empty for clean data and unbounded attacks.

    The fingerprint is that of the poisoned set: the same attack makes other bytes on another processor.
    """

    fingerprint: str
    scale: str
    seed: int
    settings: tuple[tuple[str, str], ...]
    norm: str
    radius: float


@dataclass(frozen=True)
class Defense:
    """The defense of a cell; ``cost`` is its nominal factor on the time of training."""

    scale: str
    settings: tuple[tuple[str, str], ...]
    title: str
    trusted: str
    acts: str
    cost: float
    ignores_data: bool


@dataclass(frozen=True)
class Seconds:
    """Wall time of the parts of a cell; None for a part that it does not have."""

    poison: float | None
    prepare: float | None
    denoiser: float | None
    train: float


@dataclass(frozen=True)
class Cell:
    """A finished cell.

    Attributes:
        accuracy: on the test images after the last epoch, from 0 to 1.
        history: the same after each epoch.
        epochs: how many the recipe has.
        recipe: its settings in words.
    """

    plan: Plan
    protocol: str
    command: str
    data: Data
    attack: Attack
    defense: Defense
    parameters: int
    epochs: int
    recipe: tuple[tuple[str, str], ...]
    accuracy: float
    history: tuple[float, ...]
    seconds: Seconds
    device: str
    versions: tuple[tuple[str, str], ...]
    finished: str


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result."""

    error: str
    command: str


@dataclass(frozen=True)
class Results:
    """All that a folder of results holds.

    Attributes:
        plans: the cells of the grid, in its order.
        cells: those that are finished, by id.
        failures: those that failed and have not finished since, by id.
        strays: how many finished cells belong to another grid or to other settings; they are left out.
    """

    name: str
    protocol: str
    plans: tuple[Plan, ...]
    cells: dict[str, Cell] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    strays: int = 0


def read_results(folder: Path) -> Results:
    """Read a folder of results.

    Raises:
        EclipseError: there is none, it is no folder of results, no cell of it is finished, or a file of it is damaged
            or of another version.
    """
    if not folder.is_dir():
        raise EclipseError(f"there is no folder {str(folder)!r}; expected the one given to 'eclipse bench --out'")
    if not (folder / "grid.json").is_file():
        raise EclipseError(
            f"{str(folder)!r} has no grid.json, so it holds no results; expected the folder given to 'eclipse bench "
            "--out'"
        )
    grid = read_fields(folder / "grid.json")
    grid.check_version(VERSION)
    plans = _plans(grid, folder / "grid.json")
    found = {path.stem: _cell(path, plans) for path in sorted((folder / "cells").glob("*.json"))}
    cells = {name: cell for name, cell in found.items() if cell is not None}
    failures = {path.stem: _failure(path) for path in sorted((folder / "failed").glob("*.json"))}
    if not cells:
        broken = f", {len(failures)} failed ({next(iter(failures.values())).error})" if failures else ""
        raise EclipseError(f"no cell of the grid in {str(folder)!r} is finished yet{broken}; run 'eclipse bench' first")
    return Results(
        grid.text("name"),
        grid.text("protocol"),
        tuple(plans.values()),
        cells,
        {name: failure for name, failure in failures.items() if name in plans and name not in cells},
        len(found) - len(cells),
    )


def _plans(grid: Fields, path: Path) -> dict[str, Plan]:
    """The cells of the grid by id; two are never for the same place of a table."""
    plans = dict[str, Plan]()
    places = dict[tuple[str, str, str, str, int], str]()
    for entry in grid.objects("cells"):
        attack, defense, arch, recipe = (entry.text(key) for key in ("attack", "defense", "arch", "recipe"))
        place = attack, defense, arch, recipe, entry.count("seed")
        plan = Plan(entry.text("cell"), *place)
        if plan.id in plans or place in places:
            raise damaged(path, f"{plan.id!r} and {places.get(place, plan.id)!r} are the same cell")
        plans[plan.id], places[place] = plan, plan.id
    return plans


def _cell(path: Path, plans: dict[str, Plan]) -> Cell | None:
    """Read a finished cell; None for one that is not of this grid."""
    cell = read_fields(path)
    cell.check_version(VERSION)
    if cell.text("cell") != path.stem:
        raise damaged(path, f"it is the cell {cell.text('cell')!r}")
    if path.stem not in plans:
        return None
    plan, recipe = plans[path.stem], cell.object("recipe")
    attack, defense, victim = (cell.object(key) for key in ("attack", "defense", "victim"))
    names = (*(part.text("name") for part in (attack, defense, recipe)), victim.text("arch"), cell.count("seed"))
    if names != (plan.attack, plan.defense, plan.recipe, plan.arch, plan.seed):
        raise damaged(path, "its names are not those that grid.json has for it")
    return Cell(
        plan=plan,
        protocol=cell.text("protocol"),
        command=cell.text("command"),
        data=_data(cell.object("data")),
        attack=_attack(attack),
        defense=_defense(defense),
        parameters=victim.count("parameters"),
        epochs=recipe.count("epochs"),
        recipe=recipe.words(),
        accuracy=cell.number("accuracy", 1),
        history=tuple(epoch.number("accuracy", 1) for epoch in cell.objects("epochs")),
        seconds=_seconds(cell.object("seconds")),
        device=cell.text("device"),
        versions=cell.object("versions").words(),
        finished=cell.text("finished"),
    )


def _data(data: Fields) -> Data:
    slices = {key: data.text_or_none(key) for key in ("train", "test", "trusted", "clean")}
    return Data(
        name=data.text("name"),
        slices=tuple((key, value) for key, value in slices.items() if value),
        train=data.count("train images"),
        test=data.count("test images"),
        trusted=data.count("trusted images") if "trusted images" in data else None,
        image=data.shape("image"),
        classes=data.count("classes"),
    )


def _attack(attack: Fields) -> Attack:
    fingerprint = attack.text("fingerprint")
    if attack.text("name") == CLEAN:
        return Attack(fingerprint, "", 0, (), "", 0.0)
    norm = attack.text_or_none("norm")
    bounded = norm not in ("", "none")  # the radius of an unbounded attack may be infinite
    return Attack(
        fingerprint=fingerprint,
        scale=attack.text_or_none("scale"),
        seed=attack.count("seed"),
        settings=attack.object("fields").words(),
        norm=norm if bounded else "",
        radius=attack.number("radius") if bounded else 0.0,
    )


def _defense(defense: Fields) -> Defense:
    return Defense(
        scale=defense.text_or_none("scale"),
        settings=defense.object("fields").words(),
        title=defense.text("title"),
        trusted=defense.text("trusted"),
        acts=defense.text("acts"),
        cost=defense.number("cost"),
        ignores_data=defense.true("ignores data"),
    )


def _seconds(seconds: Fields) -> Seconds:
    poison, prepare, denoiser = (seconds.number_or_none(name) for name in ("poison", "prepare", "denoiser"))
    return Seconds(poison, prepare, denoiser, seconds.number("train"))


def _failure(path: Path) -> Failure:
    failure = read_fields(path)
    error = failure.text("error")
    return Failure(error if len(error) <= _LONGEST else f"...{error[-_LONGEST:]}", failure.text("command"))
