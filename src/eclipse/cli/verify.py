"""``eclipse verify``."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import ImageColumn, JsonLines, LabelColumn, Resize

HELP = """Compare a poisoned data set with the clean one: what was changed, and whether the attack kept its bound.

    eclipse verify POISONED --clean DATASET

POISONED and DATASET are data sets in any form that `eclipse purify` takes, with the same images in the same order.
The bound is that in POISONED.run.json, which `eclipse poison` writes; for other poisons, name the attack
(--attack urp --set eps=4) or the bound (--norm Linf --radius 8).

Exit code 0: labels and bound are kept; 1: they are not, and what differs is printed; 2: the sets cannot be compared.
"""


def verify(
    poisoned: Annotated[str, typer.Argument(help="the poisoned data set", metavar="POISONED")],
    clean: Annotated[str, typer.Option(help="the data set that was poisoned", metavar="DATASET")],
    attack: Annotated[str | None, typer.Option(help="the attack that made it, where no manifest says")] = None,
    scale: Annotated[str | None, typer.Option(help="scale of the attack: paper or small", show_default="paper")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="a parameter of the attack that differs, such as eps=4", metavar="FIELD=VALUE"),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="a bound without an attack: Linf, L2, L0 or none")] = None,
    radius: Annotated[
        float | None, typer.Option(help="of that bound: 8-bit levels for Linf, pixels for L0, L2 on [0, 1] at 3x32x32")
    ] = None,
    resize: Resize = None,
    findings: Annotated[Path | None, typer.Option(help="write all findings to this file, as JSON")] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    json_lines: JsonLines = False,
) -> None:
    """Verify a poisoned data set."""
    from eclipse.cli.show import Show, facts, say
    from eclipse.data.source import open_source
    from eclipse.jobs import verify
    from eclipse.runs.files import write_json

    sources = [
        open_source(spec, image_column=image_column, label_column=label_column, side=resize)
        for spec in (poisoned, clean)
    ]
    bound = verify.resolve_bound(
        sources[0], attack=attack, scale=scale, settings=settings or (), norm=norm, radius=radius
    )
    with Show(as_json=json_lines) as show:
        found = verify.verify(sources[0], sources[1], bound, tell=show.tell)
    if findings is not None:
        write_json(findings, found.as_json())
    facts("verification", found.describe())
    say(*(f"note: {note}" for note in found.notes()), *(f"problem: {problem.what}" for problem in found.problems))
    raise typer.Exit(0 if found.holds else 1)
