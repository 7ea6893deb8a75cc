"""Literal tables that name code by ``"module:object"``, which is imported when it is used."""

import importlib
from dataclasses import fields, is_dataclass
from typing import Any

from eclipse.errors import EclipseError, unknown

SCALES = ("paper", "small")  # of attacks and defenses: as published, and for processors without a GPU


def load(reference: str) -> Any:
    """Import what ``"module:object"`` names."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(kind: str, name: str, cls: Any, scale: str, variant: dict[str, Any], parameters: dict[str, Any]) -> Any:
    """Build an attack or a defense.

    Args:
        kind: ``attack`` or ``defense``.
        name: of it.
        cls: its dataclass, with the fields that differ at the small scale in ``small``.
        scale: a name in ``SCALES``.
        variant: fields in which what has this name differs from others of its class.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown scale or parameter, or a value that it cannot have.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    known = [field.name for field in fields(cls)] if is_dataclass(cls) else list[str]()
    for parameter in parameters:
        if parameter not in known:
            raise unknown(f"parameter of {kind} {name!r}", parameter, known)
    try:
        return cls(**{**(cls.small if scale == "small" else {}), **variant, **parameters})
    except TypeError as error:
        raise EclipseError(f"a value of {kind} {name!r} has the wrong type ({error}); see 'eclipse {kind}s'") from error
