"""``eclipse defenses``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eclipse.defenses.defense import Defense

HELP = """List the defenses; with a NAME, describe one with all its parameters.

The cost is that of training a ResNet-18 on 50,000 images of 32x32 for 80 epochs with the defense, in multiples of the
same training without; a smaller one pays more for what is prepared before it. Two values are those of --scale paper
and --scale small.
"""


def defenses(
    name: Annotated[str | None, typer.Argument(help="a defense to describe", metavar="NAME")] = None,
) -> None:
    """List or describe defenses."""
    from eclipse.defenses import DEFENSES, make_defense
    from eclipse.registry import SCALES

    if name is None:
        _list({name: [make_defense(name, scale=scale) for scale in SCALES] for name in DEFENSES})
    else:
        _describe(name, [make_defense(name, scale=scale) for scale in SCALES])


def _list(scaled: "dict[str, list[Defense]]") -> None:
    from eclipse.cli.show import columns, pair

    rows = [
        (name, _title(name, both[0]), both[0].acts, both[0].needs(), pair(map(_cost, both)))
        for name, both in scaled.items()
    ]
    columns(("name", "title", "acts on", "needs trusted", "cost"), rows)
    print("\nMore about one: eclipse defenses NAME. Use it: eclipse train DATASET --test TEST --defense NAME --out RUN")


def _describe(name: str, both: "list[Defense]") -> None:
    from eclipse.cli.show import described

    head = f"{name}: {_title(name, both[0])}; acts on {both[0].acts}; trusted: {both[0].needs()}"
    described(head, both, ("cost", list(map(_cost, both))))


def _cost(defense: "Defense") -> str:
    return f"{defense.cost():.3g}"


def _title(name: str, defense: "Defense") -> str:
    """What a defense is, and in what a variant differs from the others of its kind."""
    from eclipse.defenses import DEFENSES

    differs = ", ".join(f"{field} {value}" for field, value in DEFENSES[name][1].items())
    return f"{defense.title} ({differs})" if differs else defense.title
