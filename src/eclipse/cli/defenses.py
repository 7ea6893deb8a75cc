"""``eclipse defenses``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eclipse.defenses.defense import Defense

HELP = """List the defenses; with a NAME, describe one with all its parameters.

The cost is that of training with the defense, in multiples of the same training without. Two values are those of
--scale paper and --scale small.
"""


def defenses(
    name: Annotated[str | None, typer.Argument(help="a defense to describe", metavar="NAME")] = None,
) -> None:
    """List or describe defenses."""
    from eclipse.defenses import DEFENSES, SCALES, make_defense

    if name is None:
        _list({name: [make_defense(name, scale=scale) for scale in SCALES] for name in DEFENSES})
    else:
        _describe(name, [make_defense(name, scale=scale) for scale in SCALES])


def _list(scaled: "dict[str, list[Defense]]") -> None:
    from eclipse.cli.show import columns

    rows = [
        (
            name,
            _title(name, both[0]),
            both[0].acts,
            both[0].needs(),
            _pair([f"{defense.cost():.3g}" for defense in both]),
        )
        for name, both in scaled.items()
    ]
    columns(("name", "title", "acts on", "needs trusted", "cost"), rows)
    print("\nMore about one: eclipse defenses NAME. Use it: eclipse train DATASET --test TEST --defense NAME --out RUN")


def _describe(name: str, both: "list[Defense]") -> None:
    import inspect

    from eclipse.cli.show import columns
    from eclipse.defenses import SCALES
    from eclipse.parameters import parameters

    defense = both[0]
    print(f"{name}: {_title(name, defense)}; acts on {defense.acts}; trusted: {defense.needs()}\n")
    print(inspect.getdoc(type(defense)), end="\n\n")
    paper, small = map(parameters, both)
    rows = [(key, str(paper[key]), str(small[key]), "8-bit levels" if paper[key].levels else "") for key in paper]
    cost = ("cost", *(f"{one.cost():.3g}" for one in both), "")
    columns(("parameter", *(f"scale {scale}" for scale in SCALES), ""), [*rows, cost])


def _title(name: str, defense: "Defense") -> str:
    """What a defense is, and in what a variant differs from the others of its kind."""
    from eclipse.defenses import DEFENSES

    differs = ", ".join(f"{field} {value}" for field, value in DEFENSES[name][1].items())
    return f"{defense.title} ({differs})" if differs else defense.title


def _pair(values: list[str]) -> str:
    """What paper and small have, once where they agree."""
    return "/".join(dict.fromkeys(values))
