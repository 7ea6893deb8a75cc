"""The table of attacks."""

from typing import TYPE_CHECKING, Any, cast

from eclipse.errors import unknown
from eclipse.registry import build, load

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


def attack_class(name: str) -> "type[Attack]":
    """The dataclass of an attack by its name in ``ATTACKS``."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return cast("type[Attack]", load(ATTACKS[name]))


def make_attack(name: str, *, scale: str = "paper", **parameters: Any) -> "Attack":
    """Build an attack by its name in ``ATTACKS``.

    Args:
        name: of the attack.
        scale: ``paper`` as published, ``small`` for processors without a GPU.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown name, scale or parameter, or a value out of range.
    """
    return cast("Attack", build("attack", name, attack_class(name), scale, {}, parameters))
