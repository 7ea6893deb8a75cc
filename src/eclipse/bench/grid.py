"""A grid as a TOML file: which data, attacks, defenses, victims and seeds; its cells."""

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import dropwhile
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from eclipse.attacks import ATTACKS
from eclipse.attacks.attack import Attack
from eclipse.bench.result import CLEAN, HELD_OUT, OVERLAP, VERSION
from eclipse.classifiers.classifier import CLASSIFIERS
from eclipse.classifiers.fit import RECIPES
from eclipse.data.source import MAX_SIDE
from eclipse.defenses import DEFENSES
from eclipse.defenses.defense import Defense
from eclipse.errors import EclipseError, reason_of, unknown
from eclipse.registry import SCALES, Registry
from eclipse.runs.files import read_bounded, shallow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROTOCOLS = (HELD_OUT, OVERLAP)
_MAX_BYTES = 2**20
_NAME = re.compile(
    r"\w(?:[\w .+-]{0,78}[\w.+-])?"
)  # of an imported poison: it stands in tables, and --cell picks by it
_TOP = ""  # what comes before the first section
_WORDS: dict[type, str] = {str: "word", int: "whole number"}

Section = TypeVar("Section")


@dataclass(frozen=True)
class Data:
    """The sets of a grid, each in any form that ``eclipse purify`` takes.

    Attributes:
        name: of the data, for tables.
        train: labelled images, to be poisoned.
        test: labelled clean images.
        trusted: clean images for the defenses that need a few; labelled for some.
        clean: a large clean set for the defenses that need one; ``trusted`` where it is missing.
        resize: side of the squares that all images are made; None for images as they are.
    """

    name: str
    train: str
    test: str
    trusted: str | None = None
    clean: str | None = None
    resize: int | None = None

    @property
    def sets(self) -> dict[str, str]:
        """The sets that there are, by their parts."""
        parts = ("train", "test", "trusted", "clean")
        return {part: spec for part in parts if (spec := getattr(self, part)) is not None}


@dataclass(frozen=True)
class Import:
    """A poison that others have made, as ``eclipse poison --import`` takes it.

    Attributes:
        path: images that others have poisoned, in any form; or the file of a perturbation.
        sign: 1 or -1, what a perturbation is multiplied with.
        unit: scale of a perturbation, ``levels`` or ``unit``.
    """

    path: str
    sign: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Methods:
    """Attacks or defenses.

    Attributes:
        names: in the order of the tables.
        scale: ``paper`` or ``small``.
        seed: decides the poisons, or the prepared sets; each is made once.
        set: from a name to other values of its parameters, such as ``["eps=4"]``.
    """

    names: tuple[str, ...]
    scale: str = "paper"
    seed: int = 0
    set: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Attacks(Methods):
    """Attacks, and poisons that others have made.

    Attributes:
        imported: from a name of the user's, which is one of ``names``, to a poison.
    """

    imported: Mapping[str, Import] = field(default_factory=dict)


@dataclass(frozen=True)
class Victims:
    """The networks that are trained.

    Attributes:
        archs: names of classifiers.
        recipe: of their training.
        epochs: other than the recipe's.
        seeds: one victim each.
        seeds_of: from a defense to its own seeds.
    """

    archs: tuple[str, ...]
    recipe: str = "fast"
    epochs: int | None = None
    seeds: tuple[int, ...] = (0,)
    seeds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One cell of a grid by its names."""

    attack: str
    defense: str
    arch: str
    seed: int

    def __str__(self) -> str:
        """Its name, fit for a file: names of others may have colons and dots."""
        return re.sub(r"[^\w-]", "-", f"{self.attack}-{self.defense}-{self.arch}-{self.seed}")


@dataclass(frozen=True)
class Grid:
    """A grid that was checked.

    Attributes:
        name: of the grid.
        protocol: ``held-out``, or ``paper-overlap`` where test images may be among the trusted ones, as in the paper.
        path: of its file.
    """

    name: str
    protocol: str
    data: Data
    attacks: Attacks
    defenses: Methods
    victims: Victims
    path: Path

    def cells(self) -> list[Choice]:
        """All cells: those of the first seed first, and of each seed one defense after the other."""
        seeds = sorted({seed for name in self.defenses.names for seed in self.seeds(name)})
        return [
            Choice(attack, defense, arch, seed)
            for seed in seeds
            for arch in self.victims.archs
            for defense in self.defenses.names
            if seed in self.seeds(defense)
            for attack in self.attacks.names
            if attack == self._first or not DEFENSES.load(defense).ignores_data
        ]

    @property
    def _first(self) -> str:
        """The attack for which a defense is run whose result is the same for all: on clean data, if these are named."""
        return CLEAN if CLEAN in self.attacks.names else self.attacks.names[0]

    def seeds(self, defense: str) -> tuple[int, ...]:
        """The seeds of the victims under a defense."""
        return self.victims.seeds_of.get(defense, self.victims.seeds)

    def attack(self, name: str) -> Attack | None:
        """An attack by its name; None for the clean data and for what others have made."""
        if name == CLEAN or name in self.attacks.imported:
            return None
        return cast(Attack, ATTACKS.asked(name, self.attacks.scale, self.attacks.set.get(name, ())))

    def defense(self, name: str) -> Defense:
        """A defense by its name."""
        return cast(Defense, DEFENSES.asked(name, self.defenses.scale, self.defenses.set.get(name, ())))


def read_grid(path: Path) -> Grid:
    """Read and check a grid.

    Raises:
        EclipseError: names the line, the word and what was expected.
    """
    try:
        text = read_bounded(path, _MAX_BYTES).decode()
        content = shallow(tomllib.loads(text))
    except FileNotFoundError as error:
        raise EclipseError(f"no such grid {str(path)!r}; expected a TOML file such as benchmarks/cpu.toml") from error
    except (ValueError, RecursionError) as error:
        raise EclipseError(f"{path} is no TOML file ({reason_of(error)}); see benchmarks/cpu.toml for one") from error
    return _Reader(path, text).grid(content)


class _Reader:
    """Turns the content of a file into a grid; knows in which line a word stands."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]

    def grid(self, content: Mapping[str, Any]) -> Grid:
        known = ("version", "name", "protocol", "data", "attacks", "defenses", "victims")
        for word in content:
            self._check("part of a grid", word, known, _TOP)
        version = content.get("version")
        if version != VERSION:
            raise self._error(f"version = {version!r}; this eclipse reads version {VERSION}", "version", _TOP)
        missing = [word for word in ("name", "data", "attacks", "defenses", "victims") if word not in content]
        if missing:
            raise EclipseError(f"{self._path} has no {missing[0]!r}; expected {', '.join(known)}")
        protocol = content.get("protocol", HELD_OUT)
        self._check("protocol", protocol, PROTOCOLS, _TOP, "protocol")
        if not isinstance(content["name"], str) or not content["name"].strip():
            raise self._error(f"name = {content['name']!r}; expected a word", "name", _TOP)
        grid = Grid(
            content["name"],
            protocol,
            self._section("data", Data, content["data"]),
            self._section("attacks", Attacks, content["attacks"]),
            self._section("defenses", Methods, content["defenses"]),
            self._section("victims", Victims, content["victims"]),
            self._path,
        )
        self._check_names(grid)
        self._check_parameters(grid)
        self._check_trusted(grid)
        return grid

    def _section(self, name: str, kind: type[Section], values: Any) -> Section:
        if not isinstance(values, dict):
            raise self._error(f"{name} = {values!r}; expected a section [{name}]", name, _TOP)
        hints = get_type_hints(kind)
        for word, value in values.items():
            self._check(f"word in [{name}]", word, hints, name)
            values[word] = self._value(word, value, hints[word], name)
        required = [f.name for f in fields(kind) if f.name in ("name", "train", "test", "names", "archs", "path")]  # type: ignore[arg-type]
        missing = [word for word in required if word not in values]
        if missing:
            raise EclipseError(f"[{name}] of {self._path} has no {missing[0]!r}; expected {', '.join(hints)}")
        return kind(**values)

    def _value(self, word: str, value: Any, hint: Any, section: str) -> Any:
        """A value of the right type, lists as tuples."""
        if hint is Import:
            return self._section(f"{section}.{word}", Import, {"path": value} if isinstance(value, str) else value)
        if get_origin(hint) is Mapping:
            if not isinstance(value, dict):
                raise self._error(f"{word} = {value!r}; expected a table [{section}.{word}]", word, section)
            inner = f"{section}.{word}"
            return {name: self._value(name, part, get_args(hint)[1], inner) for name, part in value.items()}
        kind = str if hint is str or str in get_args(hint) else int
        if get_origin(hint) is tuple:
            if not isinstance(value, list) or not value or any(not _is(part, kind) for part in value):
                raise self._error(f"{word} = {value!r}; expected a list of {_WORDS[kind]}s", word, section)
            return tuple(value)
        if not _is(value, kind):
            raise self._error(f"{word} = {value!r}; expected a {_WORDS[kind]}", word, section)
        return value

    def _check_names(self, grid: Grid) -> None:
        imported = tuple(grid.attacks.imported)
        crafted = [name for name in grid.attacks.names if name not in imported]
        for name in imported:
            if name in (CLEAN, *ATTACKS.names()) or not _NAME.fullmatch(name):
                why = "a name of its own, of letters, digits, blanks and any of .+-_"
                raise self._error(f"imported poison {name!r}; expected {why}", name, "attacks.imported")
        for kind, names, known, section, key in (
            (
                "attack",
                grid.attacks.names,
                (CLEAN, *_known(ATTACKS, grid.attacks.names), *imported),
                "attacks",
                "names",
            ),
            ("defense", grid.defenses.names, _known(DEFENSES, grid.defenses.names), "defenses", "names"),
            ("classifier", grid.victims.archs, _known(CLASSIFIERS, grid.victims.archs), "victims", "archs"),
            ("recipe", (grid.victims.recipe,), tuple(RECIPES), "victims", "recipe"),
            ("scale", (grid.attacks.scale,), SCALES, "attacks", "scale"),
            ("scale", (grid.defenses.scale,), SCALES, "defenses", "scale"),
            ("attack of this grid", tuple(grid.attacks.set), crafted, "attacks.set", ""),
            ("attack of this grid", imported, grid.attacks.names, "attacks.imported", ""),
            ("defense of this grid", tuple(grid.defenses.set), grid.defenses.names, "defenses.set", ""),
            ("defense of this grid", tuple(grid.victims.seeds_of), grid.defenses.names, "victims.seeds_of", ""),
        ):
            for name in names:
                self._check(kind, name, known, section, key)
            twice = [name for name in names if kind in ("attack", "defense", "classifier") and names.count(name) > 1]
            if twice:
                raise self._error(f"{kind} {twice[0]!r} is named twice; name it once", twice[0], section, key)
        if grid.data.resize is not None and not 1 <= grid.data.resize <= MAX_SIDE:
            raise self._error(f"resize = {grid.data.resize}; expected 1 to {MAX_SIDE} pixels", "resize", "data")
        if grid.victims.epochs is not None and grid.victims.epochs < 1:
            raise self._error(f"epochs = {grid.victims.epochs}; expected at least 1", "epochs", "victims")
        victims = grid.victims
        for section, key, seeds in (
            ("attacks", "seed", (grid.attacks.seed,)),
            ("defenses", "seed", (grid.defenses.seed,)),
            ("victims", "seeds", victims.seeds),
            *(("victims.seeds_of", name, seeds) for name, seeds in victims.seeds_of.items()),
        ):
            if wrong := [seed for seed in seeds if not 0 <= seed < 1 << 32]:
                raise self._error(f"seed {wrong[0]}; expected 0 to {(1 << 32) - 1}", key, section)

    def _check_parameters(self, grid: Grid) -> None:
        """Build everything once, which refuses parameters and values that cannot be."""
        parts = (("attacks", grid.attack, grid.attacks), ("defenses", grid.defense, grid.defenses))
        for section, build, methods in parts:
            for name in methods.names:
                try:
                    build(name)
                except EclipseError as error:
                    if given := methods.set.get(name):
                        raise self._error(str(error), given[0], f"{section}.set", name) from error
                    raise self._error(str(error), name, section, "names") from error
        for name in grid.victims.archs:
            try:
                CLASSIFIERS.load(name)
            except EclipseError as error:
                raise self._error(str(error), name, "victims", "archs") from error

    def _check_trusted(self, grid: Grid) -> None:
        for name in grid.defenses.names:
            needed = grid.defense(name).needs()
            if needed != "nothing" and grid.data.trusted is None:
                message = f"defense {name!r} needs {needed}, and [data] has no 'trusted'; name a set"
                raise self._error(message, name, "defenses", "names")

    def _check(self, kind: str, name: Any, known: Collection[str], section: str, key: str = "") -> None:
        if name not in known:
            raise self._error(str(unknown(kind, str(name), known)), str(name), section, key)

    def _error(self, message: str, word: str, section: str, key: str = "") -> EclipseError:
        """The error with the line where a word stands in a section, or from the line of a key there on."""
        return EclipseError(f"{self._path}{self._line(word, section, key)}: {message}")

    def _line(self, word: str, section: str, key: str) -> str:
        inside = list(self._inside(section))
        if key:
            inside = list(dropwhile(lambda line: not _sets(line[1], key), inside))
        around = self._inside(section.partition(".")[0])  # where a table is written with dots in its keys
        found = [line for line in (*inside, *around, *self._lines) if _mentions(line[1], word)] or (
            inside if key else []
        )
        return f", line {found[0][0]}" if found else ""

    def _inside(self, section: str) -> Iterator[tuple[int, str]]:
        """The lines of a section; headers are lines of the top as well."""
        at = _TOP
        for number, line in self._lines:
            header = line.startswith("[")
            if header:
                at = line.strip("[] ")
            if at == section or (header and section == _TOP):
                yield number, line


def _known(registry: Registry[Any], names: Sequence[str]) -> tuple[str, ...]:
    """The names that a grid may use: those of a table, and ``module:name`` in files of the user's."""
    return (*registry.names(), *filter(registry.is_file, names))


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a type, and if a word, not a blank one."""
    return type(value) is kind and (not isinstance(value, str) or value.strip() != "")


def _sets(line: str, key: str) -> bool:
    return line.partition("=")[0].strip().split(".")[-1].strip("\"'") == key and "=" in line


def _mentions(line: str, word: str) -> bool:
    return f'"{word}"' in line or f"'{word}'" in line or _sets(line, word) or line.strip("[] ") == word
