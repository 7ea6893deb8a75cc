"""``eclipse denoiser``: train, import, info."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train, import and inspect denoisers.", no_args_is_help=True, rich_markup_mode="markdown")


@app.command("train")
def train(
    clean: Annotated[str, typer.Argument(help="trusted images, in any form that `purify` takes", metavar="CLEAN")],
    out: Annotated[Path, typer.Option(help="the folder to keep the denoiser in")],
    preset: Annotated[
        str, typer.Option(help="fast (any size, minutes on a CPU) or paper (32x32, days on a GPU)")
    ] = "fast",
    iterations: Annotated[int | None, typer.Option(help="training steps", show_default="the preset's")] = None,
    minutes: Annotated[float | None, typer.Option(help="a time budget instead")] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="highest noise level it must serve, in 8-bit levels", show_default="the preset's"),
    ] = None,
    seed: Annotated[int, typer.Option(help="decides weights, order and noise")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    image_column: Annotated[str | None, typer.Option(help="the column with the images")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and print the settings, then stop")] = False,
) -> None:
    """Train a denoiser on trusted images; no labels are needed.

    The same command goes on with an interrupted training.
    """
    from eclipse.cli.show import Show, facts
    from eclipse.compute.device import describe_device, resolve_device
    from eclipse.data.source import load_pictures, open_source
    from eclipse.diffusion.denoiser import describe
    from eclipse.diffusion.presets import get_preset
    from eclipse.diffusion.trusted import check_trusted, decided, denoiser_in, plan_denoiser
    from eclipse.runs.state import Work

    source = open_source(clean, image_column=image_column)
    where, level = resolve_device(device), None if sigma is None else sigma / 255
    planned = plan_denoiser(get_preset(preset), iterations=iterations, minutes=minutes, sigma=level)
    trusted = check_trusted(load_pictures(source), planned.config)
    asked = {**decided(planned, trusted, seed), "images": len(trusted.images)}
    facts("settings", {**asked, "output": out, "device": describe_device(where)})
    if dry_run:
        return
    with Show() as show:
        trained = denoiser_in(out, planned, trusted, Work(seed, where), on_step=show.training)
    facts(str(out), describe(trained))


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="an improved-diffusion checkpoint, ema_0.9999_250000.pt")],
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
