"""``eclipse denoiser``: train, import, info."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import DryRun, ImageColumn, JsonLines, MaxSide, Preset, Start, carry_out

app = typer.Typer(help="Train, import and inspect denoisers.", no_args_is_help=True, rich_markup_mode="markdown")


@app.command("train")
def train(
    clean: Annotated[str, typer.Argument(help="trusted images, in any form that `purify` takes", metavar="CLEAN")],
    out: Annotated[Path, typer.Option(help="the folder to keep the denoiser in")],
    preset: Preset = "fast",
    start: Start = None,
    iterations: Annotated[int | None, typer.Option(help="training steps", show_default="the preset's")] = None,
    minutes: Annotated[float | None, typer.Option(help="a time budget instead")] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="highest noise level it must serve, in 8-bit levels", show_default="the preset's"),
    ] = None,
    seed: Annotated[int, typer.Option(help="decides weights, order and noise")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    max_side: MaxSide = None,
    image_column: ImageColumn = None,
    dry_run: DryRun = False,
    json_lines: JsonLines = False,
) -> None:
    """Train a denoiser on trusted images; no labels are needed.

    eclipse denoiser train CLEAN --out DENOISER

    eclipse purify IMAGES --denoiser DENOISER --out PURIFIED

    DENOISER is a folder; what was done is in DENOISER.run.json. An interrupted training goes on when the same command
    is given again.
    """
    options = {name: value for name, value in locals().items() if name not in ("dry_run", "json_lines")}
    from eclipse.jobs.denoiser import denoiser_job

    carry_out(denoiser_job(**options), dry_run, json_lines)


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="its file, such as ema_0.9999_250000.pt", metavar="CHECKPOINT")],
    out: Annotated[Path, typer.Option(help="the folder to keep the denoiser in")],
    heads: Annotated[int, typer.Option(min=1, help="attention heads; the file does not tell (the paper: 4)")] = 4,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="the size that it was trained on", show_default="told by its attention levels"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the checkpoint, then stop")] = False,
) -> None:
    """Import a checkpoint of improved-diffusion, such as the one that the ECLIPSE authors publish.

    The file is read as weights alone: it cannot run code.
    """
    from eclipse.cli.show import facts
    from eclipse.diffusion.checkpoint import save_denoiser
    from eclipse.diffusion.denoiser import describe
    from eclipse.diffusion.improved_diffusion import import_checkpoint

    denoiser = import_checkpoint(checkpoint, heads=heads, image_size=image_size)
    if not dry_run:
        save_denoiser(denoiser, out)
    facts(str(checkpoint if dry_run else out), describe(denoiser))


@app.command("info")
def info(folder: Annotated[Path, typer.Argument(help="a denoiser's folder", metavar="DENOISER")]) -> None:
    """Say what a denoiser is and how it was trained."""
    from eclipse.cli.show import facts
    from eclipse.diffusion.checkpoint import load_denoiser
    from eclipse.diffusion.denoiser import describe

    facts(str(folder), describe(load_denoiser(folder)))
