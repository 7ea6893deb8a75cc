"""What every command with a job does: settings, notes, dry run, progress, what was made."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from eclipse.jobs.job import Job


DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="check and print the settings and the expected time, then stop")
]
JsonLines: TypeAlias = Annotated[
    bool, typer.Option("--json", help="progress as JSON on standard error, one object a line, for programs")
]
Resize: TypeAlias = Annotated[
    int | None,
    typer.Option(help="make every image a square of N pixels: the shorter side N, cut in the middle", metavar="N"),
]
MaxSide: TypeAlias = Annotated[
    int | None,
    typer.Option(help="first reduce images whose longer side has more pixels, keeping proportions", metavar="N"),
]
Preset: TypeAlias = Annotated[
    str, typer.Option(help="fast (any size, minutes on a CPU) or paper (32x32, days on a GPU)")
]
Start: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="where the training starts: general (the denoiser that comes with eclipse) or nothing (the paper)",
        show_default="general for preset fast",
    ),
]
SkipBad: TypeAlias = Annotated[bool, typer.Option("--skip-bad", help="leave unreadable images out")]
ImageColumn: TypeAlias = Annotated[str | None, typer.Option(help="the column with the images, where it cannot be told")]
LabelColumn: TypeAlias = Annotated[str | None, typer.Option(help="the column with the labels")]


def carry_out(job: "Job", dry_run: bool, json_lines: bool) -> None:
    """Print what a job will do, do it, and print what was made."""
    from eclipse.cli.show import Show, facts, say
    from eclipse.jobs import job as life

    if life.check(job) == "finished":
        if not dry_run:
            life.tidy(job)
        say(f"{job.out} is complete already, with the same settings")
        return
    facts("settings", job.in_words())
    estimate = job.estimate()
    if estimate is not None:
        facts("expected cost", estimate)
    say(*(f"note: {note}" for note in job.notes()))
    if dry_run:
        return
    with Show(as_json=json_lines) as show:
        outcome = life.carry_out(job, show.tell)
    facts("done", job.closing(outcome))
