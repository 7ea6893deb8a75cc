"""The table of attacks."""

import importlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, cast

from eclipse.errors import unknown

if TYPE_CHECKING:
    from eclipse.data.imageset import ImageSet


class Attack(Protocol):
    """What every attack is: a frozen dataclass of the paper's hyper-parameters that poisons an image set."""

    @property
    def norm(self) -> str:
        """The norm that bounds the change: ``Linf`` or ``L2``."""

    @property
    def radius(self) -> float:
        """The bound on the [0, 1] scale; for L2 at 3x32x32 (``perturbation.bound`` gives it at any size)."""

    def poison(self, clean: "ImageSet", *, seed: int, device: str = "cpu") -> "ImageSet":
        """Return the same rows with perturbed pixels; labels, ids and order stay."""


ATTACKS = {
    "urp": "eclipse.attacks.urp:URP",
    "lsp": "eclipse.attacks.lsp:LSP",
    "ar": "eclipse.attacks.ar:AR",
}


def make_attack(name: str, **parameters: Any) -> Attack:
    """Build an attack by its name in ``ATTACKS``; unknown names and parameters raise EclipseError."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    module, _, attribute = ATTACKS[name].partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    known = [field.name for field in fields(cls)]
    for parameter in parameters:
        if parameter not in known:
            raise unknown(f"parameter of attack {name!r}", parameter, known)
    return cast(Attack, cls(**parameters))
