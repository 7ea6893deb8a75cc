"""The one exception that users see, and the helpers that word it."""

import difflib
import errno
import importlib
import importlib.util
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from types import ModuleType

_SHOWN = 40  # of the known names
_LONGEST = 200  # characters of a reason that a library gives
_OF_CONTENT = (None, errno.EINVAL, errno.EOVERFLOW)  # what an offset in a file can raise; other numbers are the disk's


class EclipseError(Exception):
    """A mistake that the user can mend; the message says the value, what was expected and the remedy.

    The command line prints the message as one sentence and exits with code 2.
    """


@contextmanager
def reading(path: str | PathLike[str], what: str, remedy: str = "write it again") -> Iterator[None]:
    """Turn whatever a damaged or hostile file makes its reader raise into one sentence; errors of the disk pass.

    Args:
        path: of the file, with the place in it where that is known.
        what: it was taken for, with its article.
        remedy: what to do about it.
    """
    try:
        yield
    except EclipseError:
        raise
    except Exception as error:  # readers of formats raise almost anything
        if isinstance(error, OSError) and error.errno not in _OF_CONTENT:
            raise
        raise EclipseError(f"{path} cannot be read as {what} ({reason_of(error)}); {remedy}") from error


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or else of what kind it is."""
    named = {MemoryError: "it asks for too much memory", RecursionError: "it is nested too deeply"}
    text = named.get(type(error)) or (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def escaped(text: str) -> str:
    """Text for people: what is not seen, but changes how the rest is shown, is spelled out (``\\x1b``, ``\\u202e``)."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode() for c in text
    )


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8 and read again.

    What Python makes of other bytes in the names of files cannot, nor can NumPy's text with numbers of no character.
    """
    try:
        text.encode().decode()
    except UnicodeError:
        return False
    return True


def unknown(kind: str, name: str, known: Iterable[str]) -> EclipseError:
    """Word the error for an unknown name and suggest the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:_SHOWN])}{more}."
    return EclipseError(f"unknown {kind} {name!r}; {hint}")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra) from error


def check_installed(module: str, extra: str) -> None:
    """Refuse to begin what `require` would stop later; a look, where an import may take seconds."""
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra)


def _missing(module: str, extra: str) -> EclipseError:
    package = module.partition(".")[0]
    return EclipseError(
        f"this needs the package {package!r}, which is not installed: pip install 'eclipse-purify[{extra}]'"
    )
