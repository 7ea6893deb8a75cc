"""The parameters of attacks and defenses as people give and read them: flat names, ``eps`` for a radius, levels."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from eclipse.errors import EclipseError, unknown

EPS = "eps"  # what people call the field ``radius``

LEVELS = {"levels": True}  # metadata of a field on the [0, 1] scale that people give and read in 8-bit levels

_WORDS = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Parameter:
    """A field of an attack or a defense, or of a recipe that is a field of it.

    Attributes:
        path: names of the fields that lead to it, ``("recipe", "epochs")``.
        kinds: the types that its value may have, as far as people can give them.
        value: that it has.
        levels: people give and read it in 8-bit levels.
    """

    path: tuple[str, ...]
    kinds: tuple[type, ...]
    value: Any
    levels: bool

    @property
    def name(self) -> str:
        """What people call it."""
        return EPS if self.path == ("radius",) else ".".join(self.path)

    def __str__(self) -> str:
        if isinstance(self.value, bool | None):
            return str(self.value).lower()
        value = self.value * 255 if self.levels else self.value
        return f"{value:.6g}" if isinstance(value, float) else str(value)


def levels(n: float) -> Any:
    """A field for a length in pixels: n/255 by default, which people give and read in 8-bit levels."""
    return dataclasses.field(default=n / 255, metadata=LEVELS)


def parameters(owner: Any) -> dict[str, Parameter]:
    """The parameters of an attack or a defense by the names that people use, the radius first where there is one."""
    found = sorted(_parameters(owner, ()), key=lambda parameter: parameter.name != EPS)
    return {parameter.name: parameter for parameter in found if parameter.name != EPS or parameter.value != math.inf}


def _parameters(owner: Any, path: tuple[str, ...]) -> list[Parameter]:
    hints, found = get_type_hints(type(owner)), list[Parameter]()
    for field in fields(owner) if is_dataclass(owner) else ():
        value = getattr(owner, field.name)
        if field.metadata.get("variant"):  # it has a name of its own: people choose it by that
            continue
        if is_dataclass(value):
            found += _parameters(value, (*path, field.name))
        else:
            hint = hints[field.name]
            types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            kinds = tuple(kind for kind in _WORDS if kind in types)
            levels = bool(field.metadata.get("levels")) and getattr(owner, "norm", "Linf") != "L2"
            found.append(Parameter((*path, field.name), kinds, value, levels))
    return found


def changed_fields(owner: Any, name: str, settings: Sequence[str]) -> dict[str, Any]:
    """The fields of an attack or a defense that settings of its parameters change.

    Args:
        owner: of the parameters.
        name: of the owner, for messages.
        settings: as ``parameter=value``, such as ``eps=4`` or ``recipe.epochs=10``.

    Raises:
        EclipseError: an unknown parameter, or a value that it cannot have.
    """
    known, given = parameters(owner), dict[str, Any]()
    for setting in settings:
        word, equals, text = setting.partition("=")
        if not equals:
            raise EclipseError(f"--set {setting!r}; expected a parameter and its value, such as eps=4")
        parameter = EPS if word == "radius" else word
        if parameter not in known:
            raise unknown(f"parameter of {name}", word, known)
        if parameter in given:
            raise EclipseError(f"--set {setting}, but {parameter!r} was set before; give it once")
        given[parameter] = _parsed(known[parameter], setting, text)
    return _changes(owner, {known[key].path: given[key] for key in given})


def _changes(owner: Any, values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The new values of an owner's fields from those of its parameters."""
    found: dict[str, Any] = {}
    for (field, *part), value in values.items():
        whole = found.get(field, getattr(owner, field))
        found[field] = replace(whole, **{part[0]: value}) if part else value
    return found


def _parsed(parameter: Parameter, setting: str, text: str) -> Any:
    """The value that a text stands for, by the type of the parameter."""
    if not set(parameter.kinds) - {NoneType}:
        raise EclipseError(f"--set {setting}, but {parameter.name!r} is not a single value; leave it out")
    for kind in parameter.kinds:
        if kind is NoneType and text.lower() == "none":
            return None
        value = _read(kind, text)
        if value is not None:
            return value / 255 if parameter.levels else value
    words = " or ".join(_WORDS[kind] for kind in reversed(parameter.kinds))
    raise EclipseError(f"--set {setting}; expected {words} for {parameter.name!r}, such as {parameter}")


def _read(kind: type, text: str) -> Any:
    """The value of a kind that a text stands for, None where it stands for none."""
    if kind is NoneType:
        return None
    if kind is bool:
        return _TRUTH.get(text.lower())
    try:
        value = kind(text)
    except ValueError:
        return None
    return value if kind is str or math.isfinite(value) else None


def all_fields(owner: Any) -> dict[str, Any]:
    """All fields of an attack or a defense, for manifests; those of a recipe nested, what is infinite as None."""
    found = dict[str, Any]()
    for field in fields(owner) if is_dataclass(owner) else ():
        value = getattr(owner, field.name)
        infinite = isinstance(value, float) and math.isinf(value)
        found[field.name] = all_fields(value) if is_dataclass(value) else None if infinite else value
    return found
