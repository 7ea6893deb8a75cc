"""``eclipse poison``."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import DryRun, ImageColumn, JsonLines, LabelColumn, Resize, carry_out

HELP = """Poison a labelled data set with an attack of the paper, or with what others have crafted.

    eclipse poison DATASET --attack em --out POISONED

DATASET is a data set in any form that `eclipse purify` takes. POISONED has its layout, order, names and labels; what
was done is in POISONED.run.json. `eclipse attacks` lists the attacks, `eclipse attacks em` the parameters of one.

Scale paper follows the published recipe and is meant for a GPU; scale small is for processors. The expected cost is
told first. An interrupted crafting goes on when the same command is given again.

With --import FILE instead of --attack, the poison is taken from a folder of images named by row (0.png, 1.png, ...),
the ECLIPSE authors' pickle or any other form with as many rows; or it is a perturbation (.pt, .npy or .npz, for each
row or for each class), to be added with --sign and --unit. `eclipse verify` tells what was changed.
"""


def poison(
    dataset: Annotated[str, typer.Argument(help="the clean, labelled data set", metavar="DATASET")],
    out: Annotated[Path, typer.Option(help="where the poisoned copy goes; must not exist")],
    attack: Annotated[str | None, typer.Option(help="a name from 'eclipse attacks', or module:Class")] = None,
    imported: Annotated[
        str | None, typer.Option("--import", help="poisoned images or a perturbation that others have made")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="paper or small", show_default="paper")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="another value for a parameter, such as eps=4; repeatable", metavar="FIELD=VALUE"),
    ] = None,
    sign: Annotated[int | None, typer.Option(help="1 or -1: add or subtract the perturbation")] = None,
    unit: Annotated[str | None, typer.Option(help="levels or unit: the scale of the perturbation")] = None,
    resize: Resize = None,
    seed: Annotated[int, typer.Option(help="decides the poison")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    format: Annotated[
        str | None,
        typer.Option(help="folder, parquet, npz or webdataset", show_default="as --out is named, else as the input"),
    ] = None,
    image_format: Annotated[str, typer.Option(help="of image files: png or webp (smaller, without loss)")] = "png",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Poison a data set."""
    options = {name: value for name, value in locals().items() if name not in ("dry_run", "json_lines")}
    from eclipse.jobs.poison import poison_job

    carry_out(poison_job(**{**options, "settings": tuple(settings or ())}), dry_run, json_lines)
