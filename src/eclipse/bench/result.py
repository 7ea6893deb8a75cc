"""The result of a cell, one record for runner, report and tests; and the folder of results, which may be damaged."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from eclipse.errors import EclipseError
from eclipse.runs.files import locked, parse_json, read_json, write_json, write_whole
from eclipse.runs.manifest import OURS

VERSION = 1
CLEAN, NONE = "clean", "none"
"""The attack that leaves the images as they are, and the defense that does nothing."""
HELD_OUT, OVERLAP = "held-out", "paper-overlap"
"""The protocols: that of the paper has trusted images among the test images."""

_MOST = 1e15  # no count, time or number of images is larger, and all up to it can be written as floats
_LONGEST = 400  # characters of an error; of a longer one, such as that of a bug, the end tells most
_HIDDEN = ("C", "Zl", "Zp")  # categories: control, format (such as right-to-left), surrogates; breaks of lines

Share = Annotated[float, 1.0]
"""A number from 0 to 1."""
Record = TypeVar("Record")


@dataclass(frozen=True)
class Planned:
    """A cell that the grid asks for."""

    cell: str
    attack: str
    defense: str
    arch: str
    recipe: str
    seed: int

    @property
    def place(self) -> tuple[str, str, str, str, int]:
        """Where its result stands in the tables."""
        return self.attack, self.defense, self.arch, self.recipe, self.seed


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a grid asks for: the content of ``grid.json``; cells in its order."""

    version: int = VERSION
    name: str
    protocol: str
    data: Mapping[str, Any]
    cells: tuple[Planned, ...]


@dataclass(frozen=True)
class Data:
    """The data of a cell: name and sets as the grid has them, the number of images, their (C, H, W).

    ``resize`` is the side of the squares that all images were made; None for images as they were.
    """

    name: str
    train: str
    test: str
    trusted: str | None
    clean: str | None
    train_images: int
    test_images: int
    trusted_images: int | None
    image: tuple[int, ...]
    classes: int
    fingerprints: Mapping[str, Any]
    resize: int | None = None


@dataclass(frozen=True)
class Attack:
    """What made the poison of a cell; nothing but a name and a fingerprint for clean data.

    Of a poison that others have made, the fields are those of ``grid.Import``, and no norm is known.

    The fingerprint is that of the poisoned set: the same attack makes other bytes on another processor.
    The radius is None for an unbounded attack.
    """

    name: str
    fingerprint: str
    scale: str | None = None
    seed: int | None = None
    norm: str | None = None
    radius: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None


@dataclass(frozen=True)
class Defense:
    """The defense of a cell; ``cost`` is its nominal factor on the time of training."""

    name: str
    title: str
    scale: str
    seed: int
    fields: Mapping[str, Any]
    trusted: str
    acts: str
    ignores_data: bool
    cost: float
    code: str | None = None


@dataclass(frozen=True)
class Victim:
    """The network of a cell, and how many parameters it has."""

    arch: str
    parameters: int
    code: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How the victim was trained."""

    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Epoch:
    """An epoch of the victim; ``accuracy`` is that on the test images."""

    epoch: int
    loss: float
    train_accuracy: Share
    images_per_s: float
    accuracy: Share


@dataclass(frozen=True)
class Seconds:
    """Wall time of the parts of a cell; what was shared took its time in another one."""

    poison: float
    poison_shared: bool
    prepare: float
    prepare_shared: bool
    denoiser: float
    train: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished cell: a line of ``cells.jsonl``, which needs nothing beside it.

    Attributes:
        accuracy: on the test images after the last epoch.
        prepared: fingerprint of the set that the victim was trained on; None where it was not recorded.
        precision: of the training; None where it was not recorded.
    """

    version: int = VERSION
    cell: str
    grid: str
    protocol: str
    data: Data
    attack: Attack
    defense: Defense
    victim: Victim
    recipe: Recipe
    seed: int
    accuracy: Share
    epochs: tuple[Epoch, ...]
    seconds: Seconds
    prepared: str | None = None
    device: str
    precision: str | None = None
    versions: Mapping[str, Any]
    finished: str
    command: str

    @property
    def planned(self) -> Planned:
        """The cell of a grid that this is the result of."""
        return Planned(self.cell, self.attack.name, self.defense.name, self.victim.arch, self.recipe.name, self.seed)


def versions_of(cells: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many cells each version of this package made, from their ``versions``."""
    found = Counter(visible(str(versions.get(OURS, "an unknown version"))) for versions in cells)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Failure:
    """Why a cell broke: a line of ``failed.jsonl``."""

    cell: str
    error: str
    command: str

    @property
    def reason(self) -> str:
        """The error, or its end, which tells most, where it is long, such as that of a bug."""
        return self.error if len(self.error) <= _LONGEST else f"...{self.error[-_LONGEST:]}"


@dataclass(frozen=True)
class Results:
    """All that a folder of results holds.

    Attributes:
        planned: the cells of the grid, in its order.
        cells: those that are finished, by name.
        failures: those that failed and have not finished since, by name.
        strays: how many finished cells belong to another grid or to other settings; they are left out.
    """

    name: str
    protocol: str
    planned: tuple[Planned, ...]
    cells: Mapping[str, Result]
    failures: Mapping[str, Failure]
    strays: int


@dataclass(frozen=True)
class Folder:
    """A folder of results: ``grid.json``, and a line a cell in ``cells.jsonl`` or, where it broke, ``failed.jsonl``.

    One process writes, and a line counts when it is whole, so a kill costs the cells that were running. Of two lines
    for a cell the last one counts: to join the results of two machines, write one ``cells.jsonl`` behind the other.
    """

    path: Path

    @property
    def grid(self) -> Path:
        """What the grid asks for."""
        return self.path / "grid.json"

    @property
    def cells(self) -> Path:
        """The results."""
        return self.path / "cells.jsonl"

    @property
    def failed(self) -> Path:
        """Why cells broke; it is there while there are any that have not finished since."""
        return self.path / "failed.jsonl"

    def check(self, name: str) -> None:
        """Refuse a folder that holds something else, results of a grid of another name, or damaged ones.

        Raises:
            EclipseError: says what it holds.
        """
        if self.grid.exists():
            self._check_grid(name)
        else:
            others = [] if not self.path.exists() else [p.name for p in self.path.iterdir() if p.name[0] != "."]
            if (others and not self.cells.exists()) or (self.path.exists() and not self.path.is_dir()):
                raise EclipseError(f"{self.path} holds no results of a grid; choose another --out")
        self.finished()
        self.failures()

    def _check_grid(self, name: str) -> None:
        try:
            made = read_json(self.grid)
            version, found = made["version"], made["name"]
        except (ValueError, KeyError, TypeError) as error:
            raise EclipseError(
                f"{self.grid} cannot be read ({error}); choose another --out, or delete that file"
            ) from error
        if version != VERSION:
            raise EclipseError(
                f"{self.path} was made by a grid of version {version}, this is {VERSION}; choose another --out"
            )
        if found != name:
            raise EclipseError(f"{self.path} holds the grid {found!r} and this is {name!r}; choose another --out")

    @contextmanager
    def writing(self, asked: Asked) -> Iterator[None]:
        """Begin, as the only process that writes here until this ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".running", self.path):
            self.begin(asked)
            yield

    def begin(self, asked: Asked) -> None:
        """Write down what the grid asks for, and forget why cells broke that it does not."""
        write_json(self.grid, asdict(asked))
        names = {cell.cell for cell in asked.cells}
        self._write_failures(failure for name, failure in self.failures().items() if name in names)

    def keep(self, result: Result) -> None:
        """Add the result of a cell, flushed to the disk; what a kill left of a line gives way."""
        line = _line(result)
        with self.cells.open("a+b") as file:
            file.seek(0)
            if rest := file.read().rpartition(b"\n")[2]:
                if _is_whole(rest):
                    line = b"\n" + line
                else:
                    file.truncate(file.tell() - len(rest))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._write_failures(failure for name, failure in self.failures().items() if name != result.cell)

    def fail(self, failure: Failure) -> None:
        """Keep the reason why a cell broke."""
        self._write_failures({**self.failures(), failure.cell: failure}.values())

    def _write_failures(self, failures: Iterable[Failure]) -> None:
        if lines := b"".join(map(_line, failures)):
            write_whole(self.failed, lines)
        else:
            self.failed.unlink(missing_ok=True)

    def finished(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """From the name of each finished cell to the place of its line and what stands there."""
        found = {}
        for place, line in _lines(self.cells):
            _check_version(line, place)
            found[_value(str, line, "cell", place)] = place, line
        return found

    def results(self, planned: Iterable[Planned]) -> dict[str, Result]:
        """The results of these cells, as far as they are finished, by name.

        Raises:
            EclipseError: a line is damaged or of another version; it names the line and the value.
        """
        finished, found = self.finished(), {}
        for cell in planned:
            if cell.cell in finished:
                place, line = finished[cell.cell]
                found[cell.cell] = result = _record(Result, line, place)
                if result.planned != cell:
                    raise _damaged(place, "its names are not those that grid.json has for it")
        return found

    def failures(self) -> dict[str, Failure]:
        """Why cells broke, by name."""
        found = [_record(Failure, line, place) for place, line in _lines(self.failed)]
        return {failure.cell: failure for failure in found}


def read_results(path: Path) -> Results:
    """Read a folder of results.

    Raises:
        EclipseError: there is none, it is no folder of results, no cell of it is finished, or a file of it is damaged
            or of another version.
    """
    folder = Folder(path)
    if not path.is_dir():
        raise EclipseError(f"there is no folder {str(path)!r}; expected the one given to 'eclipse bench --out'")
    if not folder.grid.is_file():
        raise EclipseError(
            f"{str(path)!r} has no grid.json, so it holds no results; expected the folder given to 'eclipse bench "
            "--out'"
        )
    asked = _asked(folder.grid)
    cells, failures = folder.results(asked.cells), folder.failures()
    if not cells:
        broken = f", {len(failures)} failed ({next(iter(failures.values())).reason})" if failures else ""
        raise EclipseError(f"no cell of the grid in {str(path)!r} is finished yet{broken}; run 'eclipse bench' first")
    return Results(
        asked.name,
        asked.protocol,
        asked.cells,
        cells,
        {cell.cell: failures[cell.cell] for cell in asked.cells if cell.cell in failures and cell.cell not in cells},
        len(folder.finished()) - len(cells),
    )


def _asked(path: Path) -> Asked:
    """What a grid asks for; two cells are never for the same place of a table."""
    content = _parsed(path.read_bytes(), str(path))
    _check_version(content, str(path))
    asked, cells = _record(Asked, content, str(path)), dict[Any, Planned]()
    for cell in asked.cells:
        for same in (cell.cell, cell.place):
            if (other := cells.setdefault(same, cell)) is not cell:
                raise _damaged(str(path), f"{cell.cell!r} and {other.cell!r} are the same cell")
    return asked


# What follows reads JSON that may be damaged or hostile, value by value, and says what is wrong with which one.


def visible(text: str) -> str:
    """One line of text, without characters that are not seen but change how the rest is read or written."""
    line = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(c).startswith(_HIDDEN) else c for c in line)


def _line(record: Result | Failure) -> bytes:
    return json.dumps(asdict(record), default=str).encode() + b"\n"


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of lines, each with its place; what a kill left of the last line is none."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, 1):
        if line.strip() and (number < len(lines) or _is_whole(line)):
            place = f"{path}, line {number}"
            yield place, _parsed(line, place)


def _is_whole(line: bytes) -> bool:
    """Whether a line without its end is one: no part of an object is an object."""
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _parsed(content: bytes, place: str) -> dict[str, Any]:
    try:
        found = parse_json(content)
    except ValueError as error:
        raise _damaged(place, "it is not JSON") from error
    if not isinstance(found, dict):
        raise _damaged(place, "it is not a JSON object")
    return found


def _check_version(content: Mapping[str, Any], place: str) -> None:
    if (version := _value(int, content, "version", place)) != VERSION:
        raise EclipseError(
            f"{place} has version {version} of the format of results, and this program reads version {VERSION}; "
            "report it with the program that made it, or run the benchmark into a new folder"
        )


def _record(kind: type[Record], content: Mapping[str, Any], place: str, where: str = "") -> Record:
    """A record from an object, each value checked against the type of its field; what has no field is left out."""
    hints = get_type_hints(kind, include_extras=True)
    needed = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}  # type: ignore[arg-type]
    names = [name for name, must in needed.items() if must or name in content]
    return kind(**{name: _value(hints[name], content, name, place, where) for name in names})


class _UnexpectedError(Exception):
    """What was expected in place of a value."""


def _value(hint: Any, content: Mapping[str, Any], name: str, place: str, where: str = "") -> Any:
    if name not in content:
        raise _damaged(place, f"{where}{name!r} is missing")
    try:
        return _checked(hint, content[name], place, f"{where}{name}: ")
    except _UnexpectedError as error:
        found = visible(json.dumps(content[name]))
        short = found if len(found) <= 40 else found[:37] + "..."
        raise _damaged(place, f"{where}{name!r} is {short}; expected {error}") from error


def _checked(hint: Any, value: Any, place: str, where: str) -> Any:
    """A value of a type, text as one visible line."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # with None, always
        return None if value is None else _checked(inner[0], value, place, where)
    if is_dataclass(hint) or origin is Mapping:
        _expect(isinstance(value, dict), "an object")
        return _record(cast(type, hint), value, place, where) if is_dataclass(hint) else value
    if origin is tuple:
        _expect(isinstance(value, list), "a list")
        return tuple(_checked(inner[0], part, place, where) for part in value)
    if hint is str:
        _expect(isinstance(value, str) and value.strip(), "a text")
        return visible(value)
    if hint is bool:
        _expect(isinstance(value, bool), "true or false")
        return value
    most, whole = inner[1] if origin is Annotated else _MOST, hint is int
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    _expect(number and 0 <= value <= most, "a whole number, 0 or more" if whole else f"a number from 0 to {most:g}")
    return value if whole else float(value)


def _expect(true: object, what: str) -> None:
    if not true:
        raise _UnexpectedError(what)


def _damaged(place: str, what: str) -> EclipseError:
    """Word the error for what is not as the benchmark writes it."""
    return EclipseError(
        f"{place} is damaged: {what}; delete it and run the benchmark again, which makes only that anew"
    )
