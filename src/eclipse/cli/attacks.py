"""``eclipse attacks``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eclipse.attacks.attack import Attack

HELP = """List the attacks; with a NAME, describe one with all its parameters.

Radii and other lengths in pixels are in 8-bit levels, L2 norms on the [0, 1] scale at 3x32x32. A pass is one forward
and backward pass of the surrogate, the network that an attack is made with. Two values are those of --scale paper and
--scale small.
"""


def attacks(
    name: Annotated[str | None, typer.Argument(help="an attack to describe", metavar="NAME")] = None,
) -> None:
    """List or describe attacks."""
    from eclipse.attacks import ATTACKS, make_attack
    from eclipse.registry import SCALES

    if name is None:
        _list({name: [make_attack(name, scale=scale) for scale in SCALES] for name in ATTACKS})
    else:
        _describe(name, [make_attack(name, scale=scale) for scale in SCALES])


def _list(scaled: "dict[str, list[Attack]]") -> None:
    from eclipse.cli.show import columns, pair

    rows: list[tuple[str, ...]] = [
        (name, both[0].title, both[0].family, _radius(both[0]), pair(map(_arch, both)), pair(map(_passes, both)))
        for name, both in scaled.items()
    ]
    columns(("name", "title", "family", "norm, radius", "surrogate", "passes an image"), rows)
    print("\nMore about one: eclipse attacks NAME. Use it: eclipse poison DATASET --attack NAME --out POISONED")


def _describe(name: str, both: "list[Attack]") -> None:
    from eclipse.cli.show import described

    head = f"{name}: {both[0].title} ({both[0].family}; {_radius(both[0])})"
    described(head, both, ("passes an image", list(map(_passes, both))))


def _radius(attack: "Attack") -> str:
    from eclipse.attacks.parameters import length_in_words

    return "unbounded" if attack.norm == "none" else f"{attack.norm} {length_in_words(attack.norm, attack.radius)}"


def _arch(attack: "Attack") -> str:
    return getattr(attack, "arch", "its own") if attack.passes() else "none"


def _passes(attack: "Attack") -> str:
    return f"{attack.passes():,.0f}"
