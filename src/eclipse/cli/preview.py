"""``eclipse preview``."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import ImageColumn, JsonLines, MaxSide

HELP = """Show a few images at several noise levels, before you purify them all.

    eclipse preview IMAGES

    eclipse preview IMAGES --trusted CLEAN

    eclipse preview IMAGES --max-side 256

Writes one HTML page: two dozen images of IMAGES at each level with sliders, what each level leaves of known
perturbations, the time that the whole set will take, and the command for it.

With CLEAN, the denoiser is trained first, and kept beside the page for the purification (PAGE.denoiser).
"""


def preview(
    images: Annotated[str, typer.Argument(help="the data set to purify", metavar="IMAGES")],
    out: Annotated[Path, typer.Option(help="the page; one that is there is written anew")] = Path("preview.html"),
    trusted: Annotated[str | None, typer.Option(help="trusted clean images to train a denoiser on")] = None,
    denoiser: Annotated[
        Path | None, typer.Option(help="a denoiser from 'eclipse denoiser', instead of --trusted")
    ] = None,
    max_side: MaxSide = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    image_column: ImageColumn = None,
    json_lines: JsonLines = False,
) -> None:
    """Preview a purification."""
    from eclipse.cli.command import carry_out
    from eclipse.cli.show import Show, say
    from eclipse.compute.device import resolve_device
    from eclipse.data.source import open_source
    from eclipse.diffusion.checkpoint import GENERAL, load_denoiser
    from eclipse.errors import EclipseError
    from eclipse.jobs.denoiser import denoiser_job
    from eclipse.jobs.match import mismatch
    from eclipse.jobs.preview import preview as make
    from eclipse.jobs.purify import check_one_denoiser
    from eclipse.report.preview import write_page

    check_one_denoiser(trusted, denoiser)
    if out.is_dir() or not out.parent.is_dir():
        raise EclipseError(f"the output {out} is a folder or lies in none; expected the path of a page: preview.html")
    where = resolve_device(device)
    source = open_source(images, image_column=image_column, longest=max_side)
    if trusted is not None:
        clean = open_source(trusted, image_column=image_column, longest=max_side)
        if (difference := mismatch(source, clean)) is not None:
            say(f"note: {difference}")
        denoiser = out.with_suffix(".denoiser")
        job = denoiser_job(trusted, denoiser, device=device, image_column=image_column, max_side=max_side)
        carry_out(job, False, json_lines)
    with Show(as_json=json_lines) as show:
        found = make(source, load_denoiser(denoiser or GENERAL), where, show.tell)
    write_page(found, images, denoiser, out)
    say(f"wrote {out}")
