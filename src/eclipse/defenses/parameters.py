"""Defenses as people give them."""

from collections.abc import Sequence

from eclipse.defenses import make_defense
from eclipse.defenses.defense import Defense
from eclipse.parameters import changed_fields


def defense_with(name: str, scale: str, settings: Sequence[str]) -> Defense:
    """Build a defense by its name, with some of its parameters changed.

    Args:
        name: of the defense.
        scale: ``paper`` or ``small``.
        settings: as ``parameter=value``, such as ``eps=4``.

    Raises:
        EclipseError: unknown defense, scale or parameter, or a value that it cannot have.
    """
    defense = make_defense(name, scale=scale)
    return make_defense(name, scale=scale, **changed_fields(defense, name, settings))
