"""``eclipse explain``."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import DryRun, ImageColumn, JsonLines, LabelColumn, MaxSide

HELP = """Show how noise absorbs the perturbation of a poisoned set, and what a purification leaves of it.

    eclipse explain POISONED --clean DATASET --out EXPLAIN

POISONED and DATASET are the same images after and before, in any form that `eclipse purify` takes. At rising levels of
noise it measures how far apart both sets still are and what share of the labels a probe still reads, and at rising
levels of purification how much of the perturbation is left. It looks at a thousand rows, in a minute or two.

EXPLAIN is a folder: explain.json, and pictures for 'eclipse report EXPLAIN'.
"""


def explain(
    poisoned: Annotated[str, typer.Argument(help="the poisoned data set", metavar="POISONED")],
    clean: Annotated[str, typer.Option(help="the data set that was poisoned", metavar="DATASET")],
    out: Annotated[Path, typer.Option(help="folder for the result; must not exist")] = Path("explain"),
    rows: Annotated[
        int | None,
        typer.Option(help="rows to look at", min=2, max=5000, show_default="1,000 of 32x32, fewer larger ones"),
    ] = None,
    max_side: MaxSide = None,
    seed: Annotated[int, typer.Option(help="decides the noise")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Explain a poison."""
    from eclipse.cli.command import carry_out
    from eclipse.jobs.explain import explain_job

    job = explain_job(
        poisoned,
        clean,
        out,
        rows=rows,
        seed=seed,
        device=device,
        image_column=image_column,
        label_column=label_column,
        max_side=max_side,
    )
    carry_out(job, dry_run, json_lines)
