"""``eclipse train``."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import DryRun, ImageColumn, JsonLines, LabelColumn, Resize, carry_out

HELP = """Train a network on a labelled data set, with a defense or without, and measure it on clean images.

    eclipse train DATASET --test TEST --out RUN

eclipse train POISONED --test TEST --defense eclipse --trusted CLEAN --out RUN

RUN is a folder: result.json (accuracy after every epoch and all settings) and model.safetensors (the weights); what was
done is in RUN.run.json, too. The accuracy that counts is that of the last epoch. An interrupted training goes on after
its last epoch when the same command is given again.

`eclipse defenses` lists the defenses. Recipe paper is that of the ECLIPSE paper (80 epochs, constant learning rate),
recipe fast the most accurate in little time.
"""


def train(
    dataset: Annotated[str, typer.Argument(help="the labelled training set", metavar="DATASET")],
    test: Annotated[str, typer.Option(help="labelled clean images to measure on")],
    out: Annotated[Path, typer.Option(help="folder for the result; must not exist")],
    arch: Annotated[
        str,
        typer.Option(help="small (for processors), resnet18, resnet50, vgg16, vgg19, densenet121 or module:function"),
    ] = "resnet18",
    recipe: Annotated[str, typer.Option(help="paper or fast")] = "fast",
    epochs: Annotated[int | None, typer.Option(help="other than the recipe's")] = None,
    defense: Annotated[str, typer.Option(help="a name from 'eclipse defenses', or module:Class")] = "none",
    scale: Annotated[str, typer.Option(help="paper or small: of the defense")] = "paper",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="another value for a parameter of the defense, such as p=0.5; repeatable",
            metavar="FIELD=VALUE",
        ),
    ] = None,
    trusted: Annotated[str | None, typer.Option(help="clean images, for a defense that needs some")] = None,
    resize: Resize = None,
    seed: Annotated[int, typer.Option(help="decides weights, order and all that is drawn")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="compile the network first; pays on a GPU")] = False,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Train a victim."""
    options = {name: value for name, value in locals().items() if name not in ("dry_run", "json_lines")}
    from eclipse.jobs.train import train_job

    carry_out(train_job(**{**options, "settings": tuple(settings or ())}), dry_run, json_lines)
