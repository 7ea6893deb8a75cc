"""``eclipse audit``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eclipse.cli.command import DryRun, ImageColumn, JsonLines, LabelColumn, MaxSide, SkipBad

HELP = """Say whether a labelled data set looks poisoned, how sure that is, and what to do next.

    eclipse audit DATASET --trusted CLEAN

    eclipse audit DATASET --out AUDIT

Quick networks read the labels in what the images show, in what purification takes away, in plain pixels and spectra; in
a clean set only the first tells the class. Trusted images (some hundred clean ones that are not in DATASET) make the
answer surer, since harm is then measured itself. It looks at some thousand rows spread over DATASET, in minutes.

AUDIT is a folder: audit.json, rows.csv (the rows that were looked at, with scores) and pictures for 'eclipse report
AUDIT'.

Exit code 0: nothing found; 1: suspicious; 2: it cannot be told.
"""


def audit(
    dataset: Annotated[str, typer.Argument(help="the labelled data set", metavar="DATASET")],
    trusted: Annotated[str | None, typer.Option(help="clean images that are not in DATASET")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the result; must not exist")] = None,
    rows: Annotated[
        int | None, typer.Option(help="rows to look at", min=200, show_default="5,000 of 32x32, fewer larger ones")
    ] = None,
    max_side: MaxSide = None,
    seed: Annotated[int, typer.Option(help="decides which rows are looked at, and the networks")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    skip_bad: SkipBad = False,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Audit a data set."""
    from eclipse.cli.command import carry_out
    from eclipse.cli.show import Show, facts, say
    from eclipse.errors import EclipseError
    from eclipse.jobs.audit import FINDINGS, audit_job, is_able, next_command
    from eclipse.runs.files import read_json
    from eclipse.runs.state import State

    options: dict[str, Any] = {"rows": rows, "seed": seed, "device": device, "max_side": max_side, "skip_bad": skip_bad}
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    job = audit_job(dataset, out or Path("audit"), trusted=trusted, **options, **columns)
    if out is not None:
        carry_out(job, dry_run, json_lines)
        if dry_run:
            return
        found = read_json(out / FINDINGS)
    else:
        facts("settings", job.in_words())
        say(*(f"note: {note}" for note in job.notes()))
        if dry_run:
            return
        with Show(as_json=json_lines) as show:
            found = job.examine(State(on_step=show.tell))[0].to_dict()
    show_findings(found)
    if found["suspicious"]:
        say(f"next: {next_command(dataset, trusted)}")
        raise typer.Exit(1)
    if not is_able(found):
        raise EclipseError(f"no verdict, since labels are needed for one: {job.source.unlabelled}")
    say(f"next: train on {dataset} as it is")


def show_findings(found: Mapping[str, Any]) -> None:
    """Print the table of findings and the verdict."""
    from eclipse.cli.show import columns, say
    from eclipse.jobs.audit import is_able, judged, p_in_words, share_in_words

    rows = [
        (name, finding["words"], p_in_words(finding["p"]), judged(name, found))
        for name, finding in found["findings"].items()
    ]
    rows += [(name, words, "", "skipped") for name, words in found["skipped"].items()]
    columns(("detector", "what was seen", "p", ""), rows)
    say("", *(f"note: {note}" for note in found["notes"]))
    if is_able(found):
        say(f"verdict: {found['verdict']} (of clean data sets {found['level']:.0%} are called suspicious)")
    if found["family"]:
        say(f"likely kind: {found['family']}")
    if found["share"]:
        say(f"poisoned rows: {share_in_words(found['share'])}")
    say(f"looked at {found['looked at']:,} of {found['images']:,} images")
