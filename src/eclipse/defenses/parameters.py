"""Defenses as people give them."""

from collections.abc import Sequence

from eclipse.defenses import make_defense
from eclipse.defenses.defense import Defense
from eclipse.errors import check_installed
from eclipse.parameters import changed_fields


def defense_with(name: str, scale: str, settings: Sequence[str]) -> Defense:
    """Build a defense by its name, with some of its parameters changed.

    Args:
        name: of the defense.
        scale: ``paper`` or ``small``.
        settings: as ``parameter=value``, such as ``eps=4``.

    Raises:
        EclipseError: unknown defense, scale or parameter, a value that it cannot have, or a package that is missing.
    """
    defense = make_defense(name, scale=scale)
    changed = make_defense(name, scale=scale, **changed_fields(defense, name, settings))
    if changed.package is not None:
        check_installed(*changed.package)
    return changed
