"""The table of attacks and, imported when it is used, all that an attack is made of: see ``kit.py``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from eclipse.registry import Registry

if TYPE_CHECKING:
    from eclipse.attacks.kit import *  # noqa: F403
    from eclipse.attacks.kit import Attack
else:

    def __getattr__(name: str) -> Any:
        return getattr(import_module("eclipse.attacks.kit"), name)


ATTACKS: "Registry[type[Attack]]" = Registry(
    "attack",
    "eclipse.attacks",
    {
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
    },
    contract="eclipse.attacks:Attack",
    files=True,
)


def make_attack(name: str, *, scale: str = "paper", **parameters: Any) -> "Attack":
    """Build an attack by its name in ``ATTACKS``.

    Args:
        name: of the attack.
        scale: ``paper`` as published, ``small`` for processors without a GPU.
        parameters: fields that are to differ from those of the scale.

    Raises:
        EclipseError: unknown name, scale or parameter, or a value out of range.
    """
    return cast("Attack", ATTACKS.build(name, scale, parameters))
