"""``eclipse purify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eclipse.jobs.job import Job

from eclipse.cli.command import (
    DryRun,
    ImageColumn,
    JsonLines,
    LabelColumn,
    MaxSide,
    Preset,
    Start,
    carry_out,
)

HELP = """Purify a suspicious data set, with the help of a few trusted images where there are any.

    eclipse purify IMAGES --out PURIFIED

    eclipse purify IMAGES --trusted CLEAN --out PURIFIED

IMAGES and CLEAN are data sets in any form: a folder of images, a Parquet file or folder, an Arrow data set saved by
`datasets`, WebDataset shards (`shards-{000..004}.tar`), an .npz (images, labels), the CIFAR-10/100 Python batches, the
authors' pickle, or `hf:NAME` for the Hub; each may carry a slice: `train.parquet[:10000]`.

Without CLEAN, the general denoiser that comes with eclipse does the work. CLEAN is used to fine-tune it (no labels
needed; 2% to 5% of the size of IMAGES is right); the result is kept in PURIFIED.denoiser.

PURIFIED has the layout, order, names and labels of IMAGES. Its images are PNG: without loss, and many times as large
as JPEG. --image-format webp saves a quarter of that, and jpeg:95 seven tenths, with a little loss.

What was done is in PURIFIED.run.json, and with --report PURIFIED.report.html shows it.
An interrupted run goes on when the same command is given again.

With --auto, IMAGES are audited first (`eclipse audit`). If nothing is found, no copy is made: train on IMAGES. Else
`eclipse choose` tries treatments on CLEAN, and the best one, if it is a purification, makes PURIFIED. What was found is
kept in PURIFIED.audit and PURIFIED.choice.

Then train on PURIFIED with `eclipse.Compensate(p, noise, q)` among your training transforms (or purify with
--compensate once): grayscale and noise remove what purification leaves of low-frequency poisons.
"""


def _level(text: str) -> float | str:
    return text if text == "auto" else float(text)


def purify(
    images: Annotated[str, typer.Argument(help="the data set to purify", metavar="IMAGES")],
    out: Annotated[Path, typer.Option(help="where the purified copy goes; must not exist")],
    trusted: Annotated[str | None, typer.Option(help="trusted clean images to train a denoiser on")] = None,
    denoiser: Annotated[
        Path | None, typer.Option(help="a denoiser from 'eclipse denoiser', instead of --trusted")
    ] = None,
    preset: Preset = "fast",
    start: Start = None,
    sigma: Annotated[
        Any,
        typer.Option(
            parser=_level,
            help="noise level in 8-bit levels (paper: 6.4), or auto: the lowest after which labels are read no better "
            "than after the strongest (takes minutes and labels)",
            metavar="LEVEL|auto",
            show_default="the preset's",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="network evaluations an image", show_default="the preset's")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="one-step, ancestral, ancestral-posterior or ddim", show_default="the preset's"),
    ] = None,
    seed: Annotated[int, typer.Option(help="decides the noise and the denoiser's training")] = 0,
    format: Annotated[
        str | None,
        typer.Option(help="folder, parquet, npz or webdataset", show_default="as --out is named, else as the input"),
    ] = None,
    image_format: Annotated[
        str, typer.Option(help="of image files: png, webp (smaller, without loss) or jpeg:Q (with loss; Q is 1 to 100)")
    ] = "png",
    max_side: MaxSide = None,
    compensate: Annotated[
        str, typer.Option(help="online: left to training time; once: grayscale and noise written into the images")
    ] = "online",
    p: Annotated[float | None, typer.Option(help="probability of grayscale", show_default="the preset's")] = None,
    noise: Annotated[
        float | None, typer.Option(help="compensation noise on the [0, 1] scale", show_default="the preset's")
    ] = None,
    q: Annotated[float | None, typer.Option(help="probability of that noise", show_default="the preset's")] = None,
    iterations: Annotated[
        int | None, typer.Option(help="training steps of the denoiser", show_default="the preset's")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="time budget for training the denoiser")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave unreadable images out and list them")] = False,
    batch: Annotated[int, typer.Option(help="images read at a time; does not change the result")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="audit first, and purify, in the way that suits best, only what is suspicious"),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="then write PURIFIED.report.html: images before and after, and more")
    ] = False,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Purify a data set."""
    options = {name: value for name, value in locals().items() if name not in _OF_THE_COMMAND}
    from eclipse.cli.show import Show
    from eclipse.jobs.purify import purify_job

    made = [out]
    if auto:
        made = _auto(options, dry_run, json_lines)
    else:
        with Show(as_json=json_lines) as show:
            job = purify_job(**options, tell=show.tell)
        carry_out(job, dry_run, json_lines)
    if report and not dry_run:
        from eclipse.cli.report import report as write

        for one in made:
            write(one)


_OF_THE_COMMAND = ("auto", "report", "dry_run", "json_lines")
_CHOSEN: tuple[str, ...] = ("denoiser", "preset", "start", "sigma", "steps", "sampler", "compensate", "p", "noise", "q")
_CHOSEN += ("iterations", "minutes")


def _auto(options: dict[str, Any], dry_run: bool, json_lines: bool) -> list[Path]:
    """Audit, choose and purify; returns what was made."""
    from eclipse.cli.audit import show_findings
    from eclipse.cli.choose import show_choice
    from eclipse.cli.show import say
    from eclipse.errors import EclipseError
    from eclipse.jobs.audit import FINDINGS, Auditing
    from eclipse.jobs.auto import purify_auto
    from eclipse.jobs.choose import Choosing, read_choice
    from eclipse.runs.files import read_json

    usual = {"preset": "fast", "compensate": "online"}
    for name in _CHOSEN:
        if (value := options.pop(name)) != usual.get(name):
            raise EclipseError(f"--{name} {value} with --auto, which chooses the treatment; leave one of them out")
    made = list[Path]()

    def carried_out(job: "Job") -> None:
        carry_out(job, dry_run, json_lines)
        if not job.out.exists():  # a dry run
            return
        made.append(job.out)
        if isinstance(job, Auditing):
            show_findings(read_json(job.out / FINDINGS))
        if isinstance(job, Choosing):
            show_choice(read_choice(job.out))

    say(purify_auto(**options, carry_out=carried_out))
    return made
