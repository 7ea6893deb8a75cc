"""``eclipse choose``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eclipse.cli.command import DryRun, ImageColumn, JsonLines, LabelColumn, MaxSide, SkipBad, carry_out

HELP = """Try treatments with quick victims, and tell which one to go on with.

    eclipse choose DATASET --trusted CLEAN --out CHOICE

Small networks are trained on a part of DATASET under each treatment: none, JPEG, grayscale, purification at several
noise levels, with and without compensation, and what --candidate names. They are judged on CLEAN: measured where its
images have labels of the same classes, else estimated from which networks agree, which is less sure.

A few labels make the choice surer. --ask 200 writes the trusted images whose labels are worth most to CHOICE.ask, with
labels.csv to fill in; the same command with --labels CHOICE.ask/labels.csv ranks anew, in a second.

CHOICE is a folder; 'eclipse report CHOICE' shows it. An interrupted choice goes on when the same command is given
again.
"""


def choose(
    dataset: Annotated[str, typer.Argument(help="the labelled data set", metavar="DATASET")],
    trusted: Annotated[str, typer.Option(help="clean images that are not in DATASET")],
    out: Annotated[Path, typer.Option(help="folder for the result; must not exist")],
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="a further treatment: a name from 'eclipse defenses' and parameters, such as 'iss-j quality=30'; "
            "repeatable",
            metavar="WORDS",
        ),
    ] = None,
    ask: Annotated[
        int | None, typer.Option(help="then write so many trusted images to be labelled to OUT.ask", min=50)
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="labels of trusted images: a CSV with id and label")] = None,
    max_side: MaxSide = None,
    seed: Annotated[int, typer.Option(help="decides which rows are used, and the victims")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    skip_bad: SkipBad = False,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Choose a treatment."""
    from eclipse.cli.show import say
    from eclipse.jobs import choose as jobs

    reading: dict[str, Any] = {"max_side": max_side, "skip_bad": skip_bad}
    reading |= {"image_column": image_column, "label_column": label_column}
    job = jobs.choose_job(dataset, trusted, out, candidates=candidate or (), seed=seed, device=device, **reading)
    carry_out(job, dry_run, json_lines)
    if dry_run:
        return
    found = jobs.read_choice(out) if labels is None else jobs.relabel(job, labels)
    show_choice(found)
    say(f"next: {jobs.next_command(found['best'], dataset, trusted)}")
    if ask is not None:
        table = jobs.ask(job, ask, out.with_name(f"{out.name}.ask"))
        say(f"fill in {table} (classes: {', '.join(found['classes'])}); then the same command with --labels {table}")


def show_choice(found: Mapping[str, Any]) -> None:
    """Print the ranking and how it is known."""
    from eclipse.cli.show import columns, say

    ranked = found["ranked"]
    rows = [(tried["words"], f"{tried['accuracy']:.1%}", f"± {tried['error']:.1%}") for tried in ranked]
    columns(("treatment", "accuracy on trusted images", "standard error"), rows)
    if found["labels"]:
        say("", f"measured on {found['labels']:,} labelled trusted images")
    else:
        say("", "estimated without labels; 200 labels make it surer: --ask 200")
    say(*(f"note: {note}" for note in found["notes"]))
    if not found["sure"]:
        say(f"the first ones are too close to tell apart: {ranked[0]['words']} and {ranked[1]['words']}")
    if found["best"] != ranked[0]["words"]:
        say(f"as good by what is known, and simpler: {found['best']}")
