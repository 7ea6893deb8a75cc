"""Attacks and lengths as people give and read them."""

import math
from collections.abc import Sequence

from eclipse.attacks import make_attack
from eclipse.attacks.attack import Attack
from eclipse.errors import EclipseError
from eclipse.parameters import changed_fields

_LONGEST = math.sqrt(3 * 32 * 32)  # the L2 norm of the way from black to white at 3x32x32


def attack_with(name: str, scale: str, settings: Sequence[str]) -> Attack:
    """Build an attack by its name, with some of its parameters changed.

    Args:
        name: of the attack.
        scale: ``paper`` or ``small``.
        settings: as ``parameter=value``, such as ``eps=4`` or ``recipe.epochs=10``.

    Raises:
        EclipseError: unknown attack, scale or parameter, or a value that it cannot have.
    """
    attack = make_attack(name, scale=scale)
    changed = make_attack(name, scale=scale, **changed_fields(attack, name, settings))
    if changed.norm == "L2" and changed.radius > _LONGEST:
        raise EclipseError(
            f"{name} radius {changed.radius:g}, an L2 norm on the [0, 1] scale at 3x32x32; expected at most "
            f"{_LONGEST:.1f}, the way from black to white, such as {attack.radius:.2g}"
        )
    return changed


def length_in_words(norm: str, length: float) -> str:
    """A length in a norm: levels for ``Linf`` and ``none``, pixels for ``L0``."""
    if norm == "L2":
        return f"{length:.3g}"
    if norm == "L0":
        return f"{length:g} pixel{'' if length == 1 else 's'}"
    return f"{length * 255:.4g} levels"
