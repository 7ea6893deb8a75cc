"""The one exception that users see, and the helpers that word it."""

import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

_SHOWN = 40  # of the known names


class EclipseError(Exception):
    """A mistake that the user can mend; the message says the value, what was expected and the remedy.

    The command line prints the message as one sentence and exits with code 2.
    """


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
