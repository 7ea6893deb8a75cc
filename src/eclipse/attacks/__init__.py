"""The table of attacks."""

import importlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from eclipse.errors import EclipseError, unknown

if TYPE_CHECKING:
    from eclipse.attacks.attack import Attack

ATTACKS = {
    "urp": "eclipse.attacks.urp:URP",
    "lsp": "eclipse.attacks.lsp:LSP",
    "ar": "eclipse.attacks.ar:AR",
    "ops": "eclipse.attacks.ops:OPS",
    "cuda": "eclipse.attacks.cuda:CUDA",
    "pil": "eclipse.attacks.pil:PIL",
    "em": "eclipse.attacks.em:EM",
    "rem": "eclipse.attacks.rem:REM",
    "adp": "eclipse.attacks.adp:ADP",
    "tap": "eclipse.attacks.tap:TAP",
    "sep": "eclipse.attacks.sep:SEP",
    "efp": "eclipse.attacks.efp:EFP",
    "hypo": "eclipse.attacks.hypo:HYPO",
}

SCALES = ("paper", "small")


def attack_class(name: str) -> "type[Attack]":
    """The dataclass of an attack by its name in ``ATTACKS``."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    module, _, attribute = ATTACKS[name].partition(":")
    return cast("type[Attack]", getattr(importlib.import_module(module), attribute))


def make_attack(name: str, *, scale: str = "paper", **parameters: Any) -> "Attack":
    """Build an attack by its name in ``ATTACKS``.

    Args:
        name: of the attack.
        scale: ``paper`` as published, ``small`` for processors without a GPU.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown name, scale or parameter, or a value out of range.
    """
    cls = attack_class(name)
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    known = [field.name for field in fields(cast(Any, cls))]
    for parameter in parameters:
        if parameter not in known:
            raise unknown(f"parameter of attack {name!r}", parameter, known)
    try:
        return cls(**{**(cls.small if scale == "small" else {}), **parameters})
    except TypeError as error:
        raise EclipseError(f"a value of attack {name!r} has the wrong type ({error}); see 'eclipse attacks'") from error
