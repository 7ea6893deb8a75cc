"""Read JSON that may be damaged or hostile, value by value, and say what is wrong with which one."""

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eclipse.errors import EclipseError

_MOST = 1e15  # no count, time or number of images is larger, and all up to it can be written as floats
_HIDDEN = ("C", "Zl", "Zp")  # categories: control, format (such as right-to-left), surrogates; breaks of lines


def read_fields(path: Path) -> "Fields":
    """Read a JSON file that holds an object.

    Raises:
        EclipseError: it is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(content, dict):
        raise damaged(path, "it is not a JSON object")
    return Fields(path, content)


def damaged(path: Path, what: str) -> EclipseError:
    """Word the error for a file that is not what the benchmark writes."""
    return EclipseError(f"{path} is damaged: {what}; delete it and run the benchmark again, which makes only that anew")


def visible(text: str) -> str:
    """One line of text, without characters that are not seen but change how the rest is read or written."""
    line = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(c).startswith(_HIDDEN) else c for c in line)


class Fields:
    """The values of a JSON object, each checked when it is read; all text comes out as one visible line."""

    def __init__(self, path: Path, content: Mapping[str, Any], where: str = "") -> None:
        self._path = path
        self._content = content
        self._where = where

    def __contains__(self, key: str) -> bool:
        """Whether there is a value."""
        return key in self._content

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self._value(key)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, "a text")
        return visible(value)

    def text_or_none(self, key: str) -> str:
        """Return a text, empty where the value is null."""
        return self.text(key) if self._value(key) not in (None, "") else ""

    def number(self, key: str, most: float = _MOST) -> float:
        """Return a number from 0 to ``most``."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise self._wrong(key, f"a number from 0 to {most:g}")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        """Return a number, 0 or more, or None where the value is null."""
        return None if self._value(key) is None else self.number(key)

    def count(self, key: str) -> int:
        """Return a whole number, 0 or more."""
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
            raise self._wrong(key, "a whole number, 0 or more")
        return value

    def true(self, key: str) -> bool:
        """Whether there is a value and it is ``true``."""
        return self._content.get(key) is True

    def object(self, key: str) -> "Fields":
        """Return the values of an object within."""
        return self._inner(self._value(key), key)

    def objects(self, key: str) -> "list[Fields]":
        """Return the values of each object of a list."""
        return [self._inner(value, key) for value in self._list(key)]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        sizes = self._list(key)
        if not all(isinstance(size, int) and 0 <= size <= _MOST for size in sizes):
            raise self._wrong(key, "a list of whole numbers")
        return tuple(map(int, sizes))

    def words(self) -> tuple[tuple[str, str], ...]:
        """Return all names and values in words, whatever they are."""
        return tuple((visible(name), _words(value)) for name, value in self._content.items())

    def check_version(self, version: int) -> None:
        """Refuse another version of the format."""
        if self.count("version") != version:
            raise EclipseError(
                f"{self._path} has version {self._value('version')} of the format of results, and this program reads "
                f"version {version}; report it with the program that made it, or run the benchmark into a new folder"
            )

    def _value(self, key: str) -> Any:
        if key not in self._content:
            raise damaged(self._path, f"{self._where}{key!r} is missing")
        return self._content[key]

    def _list(self, key: str) -> list[Any]:
        value = self._value(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def _inner(self, value: Any, key: str) -> "Fields":
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Fields(self._path, value, f"{self._where}{key}: ")

    def _wrong(self, key: str, expected: str) -> EclipseError:
        found = visible(json.dumps(self._value(key)))
        short = found if len(found) <= 40 else found[:37] + "..."
        return damaged(self._path, f"{self._where}{key!r} is {short}; expected {expected}")


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(value if isinstance(value, str) else json.dumps(value))
