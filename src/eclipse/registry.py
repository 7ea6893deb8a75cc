"""Tables from a name to the code that it stands for, which is imported when it is used.

Ours are literal. Other packages join with entry points, and a user names an own file beside the data ``module:Class``.
"""

import ast
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from eclipse.errors import EclipseError, unknown
from eclipse.parameters import changed_fields

SCALES = ("paper", "small")  # of attacks and defenses: as published, and for processors without a GPU

Code = TypeVar("Code")


@dataclass(frozen=True)
class Entry:
    """Where the code behind a name is.

    Attributes:
        reference: ``module:object``.
        variant: fields in which what has this name differs from others of its class.
        package: name and version of the package that it came with; None for our own and for a user's file.
        ours: it is part of this package.
    """

    reference: str
    variant: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    ours: bool = False

    @property
    def module(self) -> str:
        """The module to import."""
        return self.reference.partition(":")[0]

    def load(self) -> Any:
        """Import what the reference names."""
        found = importlib.import_module(self.module)
        for attribute in self.reference.partition(":")[2].split("."):
            found = getattr(found, attribute)
        return found


class Registry(Generic[Code]):
    """A table of ours and what others add to it. What they add can neither take one of our names nor break one.

    Args:
        kind: what an entry is, in one word.
        group: of the entry points with which packages join.
        entries: from our names to ``module:object``, with the fields of a variant where there are several of a class.
        contract: the class that a class of others must derive from, as ``module:object``; None for functions.
        files: ``module:object`` is a name as well, and the module may be a file in the current folder.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        entries: Mapping[str, str | tuple[str, Mapping[str, Any]]],
        *,
        contract: str | None = None,
        files: bool = False,
    ) -> None:
        self.kind = kind
        self._group, self._contract, self._files = group, contract, files
        pairs = {name: found if isinstance(found, tuple) else (found, {}) for name, found in entries.items()}
        self._ours = {name: Entry(reference, variant, ours=True) for name, (reference, variant) in pairs.items()}

    def names(self) -> tuple[str, ...]:
        """All names: ours in the order of the table, then those of others."""
        return tuple(dict.fromkeys((*self._ours, *sorted(name for name, _ in self._others()))))

    def foreign(self) -> tuple[str, ...]:
        """The names of others alone."""
        return self.names()[len(self._ours) :]

    def entry(self, name: str) -> Entry:
        """Where the code behind a name is; nothing is imported.

        Raises:
            EclipseError: an unknown name, or one that a package claims which another one has.
        """
        if self.is_file(name):
            return Entry(name)
        claims = [entry for other, entry in self._others() if other == name]
        if claims and name in self._ours:
            raise EclipseError(
                f"the package {claims[0].package} claims the {self.kind} name {name!r}, which is built in; expected a "
                f"name of its own: uninstall it (pip uninstall {_project(claims[0])})"
            )
        if len(claims) > 1:
            packages = " and ".join(sorted(str(entry.package) for entry in claims))
            raise EclipseError(
                f"the packages {packages} claim the same {self.kind} name {name!r}; uninstall one of them (pip "
                f"uninstall {_project(claims[0])})"
            )
        if not claims and name not in self._ours:
            raise unknown(self.kind, name, self.names())
        return claims[0] if claims else self._ours[name]

    def is_file(self, name: str) -> bool:
        """Whether a name is ``module:object``, which only a user gives."""
        return self._files and ":" in name

    def load(self, name: str) -> Code:
        """Import the code behind a name.

        Raises:
            EclipseError: no such name, or code of others that is broken or no fit.
        """
        entry = self.entry(name)
        if entry.ours:
            return cast(Code, entry.load())
        with self.blaming(name):
            found = self._of_file(entry) if self.is_file(name) else entry.load()
            self._check(found)
        return cast(Code, found)

    def build(self, name: str, scale: str = "paper", values: Mapping[str, Any] | None = None) -> Any:
        """Build an attack or a defense.

        Args:
            name: of it.
            scale: a name in ``SCALES``.
            values: of fields that are to differ from those of the scale.

        Raises:
            EclipseError: unknown name, scale or field, or a value that it cannot have.
        """
        cls, values = cast(Any, self.load(name)), values or {}
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        known = [field.name for field in fields(cls)] if is_dataclass(cls) else list[str]()
        for parameter in values:
            if parameter not in known:
                raise unknown(f"parameter of {self.kind} {name!r}", parameter, known)
        given = {**(cls.small if scale == "small" else {}), **self.entry(name).variant, **values}
        with self.blaming(name):
            try:
                return cls(**given)
            except TypeError as error:
                raise EclipseError(
                    f"a value of {self.kind} {name!r} has the wrong type ({error}); see 'eclipse {self.kind}s'"
                ) from error

    def asked(self, name: str, scale: str, settings: Sequence[str]) -> Any:
        """Build an attack or a defense that a user asks for, and check that it can be used.

        Args:
            name: of it.
            scale: a name in ``SCALES``.
            settings: as ``parameter=value``, such as ``eps=4`` or ``recipe.epochs=10``.

        Raises:
            EclipseError: as ``build``; an unknown parameter, or a package that is missing.
        """
        plain = self.build(name, scale)
        made = self.build(name, scale, changed_fields(plain, name, settings))
        made.check(name)
        return made

    def code(self, name: str) -> dict[str, str]:
        """What tells the code of others from an earlier or later version of it, for records; empty for our own.

        The version of its package, and a digest of its file and of those that it imports from the same package or, a
        user's file, from the current folder.
        """
        entry = self.entry(name)
        if entry.ours:
            return {}
        module = getattr(self.load(name), "__module__", entry.module)
        file = getattr(sys.modules.get(module), "__file__", None)
        digest = hashlib.sha256(b"".join(_sources(module, Path(file)))).hexdigest()[:16] if file else ""
        return {"code": " ".join(filter(None, (entry.package, digest)))}

    @contextmanager
    def blaming(self, name: str) -> Iterator[None]:
        """Word what goes wrong in the code of others, and whose code it is."""
        try:
            yield
        except EclipseError:
            raise
        except Exception as error:
            entry = self.entry(name)
            if entry.ours:
                raise
            raise EclipseError(
                f"the {self.kind} {name!r}{f' of the package {entry.package}' if entry.package else ''} is broken "
                f"({type(error).__name__}: {error}); "
                + (f"update it, or uninstall it (pip uninstall {_project(entry)})" if entry.package else "mend it")
            ) from error

    def _others(self) -> tuple[tuple[str, Entry], ...]:
        return _joined(self._group, tuple(sys.path))

    def _of_file(self, entry: Entry) -> Any:
        """Import what a user names; the current folder is looked at last, and for this import alone."""
        if not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", entry.reference):
            raise EclipseError(f"{self.kind} {entry.reference!r}; expected module:name, as Python has them")
        folder = os.getcwd()
        added = folder not in sys.path
        if added:
            sys.path.append(folder)
        try:
            module = importlib.import_module(entry.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{entry.module}.".startswith(f"{error.name}."):
                raise
            raise self._no_module(error.name, entry, folder) from error
        finally:
            if added:
                sys.path.remove(folder)
        word = entry.reference.partition(":")[2]
        if not hasattr(module, word):
            if getattr(module, "__path__", None) and module.__file__ is None:  # a folder, of images perhaps
                raise self._no_module(entry.module, entry, folder)
            raise unknown(f"name in {module.__file__}:", word, filter(str.isidentifier, vars(module)))
        return getattr(module, word)

    def _no_module(self, name: str, entry: Entry, folder: str) -> EclipseError:
        return EclipseError(
            f"no module {name!r} for the {self.kind} {entry.reference!r}; expected an installed one, or a "
            f"file in {folder}, without its ending .py"
        )

    def _check(self, found: Any) -> None:
        """Refuse code of others that is not what this table holds."""
        if self._contract is None:
            if not callable(found):
                raise TypeError("expected a function")
            return
        contract = Entry(self._contract).load()
        if not isinstance(found, type) or not issubclass(found, contract):
            raise TypeError(f"expected a class derived from {self._contract.replace(':', '.')}")
        if missing := [word for word in contract.__annotations__ if not hasattr(found, word)]:
            raise TypeError(f"it has no {', '.join(missing)}")


@lru_cache
def _joined(group: str, path: tuple[str, ...]) -> tuple[tuple[str, Entry], ...]:
    """The entry points of a group that are found on a path, with the packages that have them."""
    return tuple(
        (point.name, Entry(point.value.partition("[")[0].strip(), package=f"{point.dist.name} {point.dist.version}"))
        for point in entry_points(group=group)
        if point.dist is not None
    )


def _sources(module: str, file: Path) -> list[bytes]:
    """What is in the file of a module, and in those that it imports from beside it, and so on."""
    root = file.parents[module.count(".") + (file.name == "__init__.py")]
    package, found, waiting = module.partition(".")[0], dict[Path, bytes](), [(module, file)]
    while waiting:
        name, path = waiting.pop()
        if path in found:
            continue
        found[path] = path.read_bytes()
        for imported in _imports(name, path, found[path]):
            if imported.partition(".")[0] == package or root.samefile(os.getcwd()):
                place = root / imported.replace(".", "/")
                files = (place.with_name(f"{place.name}.py"), place / "__init__.py")
                waiting += [(imported, file) for file in files if file.is_file()]
    return [found[path] for path in sorted(found, key=lambda path: (path != file, path))]


def _imports(module: str, path: Path, source: bytes) -> Iterator[str]:
    """The names of all that a module may import, whether modules or what is in them."""
    if path.suffix != ".py":
        return
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _project(entry: Entry) -> str:
    return str(entry.package).partition(" ")[0]
