"""``eclipse demo``."""

from pathlib import Path
from typing import Annotated

import typer

from eclipse.cli.command import Resize
from eclipse.cli.report import report

HELP = """Show the whole story: poison a data set, train on it, purify it, train again.

Without --data it draws handwritten digits on photographs, which come with eclipse; nothing is downloaded. No image is
trusted: the general denoiser purifies. Every number that it prints is measured in this run.
"""


def demo(
    out: Annotated[Path, typer.Option(help="folder for data sets, picture and numbers")] = Path("demo-output"),
    data: Annotated[str | None, typer.Option(help="your own labelled data set, images of one size")] = None,
    resize: Resize = None,
    attack: Annotated[str, typer.Option(help="a name from 'eclipse attacks'; at scale small")] = "lsp",
    seed: Annotated[int, typer.Option(min=0, help="decides split, poison, victim and purification")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Run the demo."""
    from eclipse.attacks import make_attack
    from eclipse.cli.show import Show, say
    from eclipse.data.source import BY_RESIZE, load_imageset, open_source
    from eclipse.jobs import demo as story

    make_attack(attack, scale="small")
    if data is None:
        parts = story.digits(seed)
    else:
        images = load_imageset(open_source(data, side=resize), "the demo", BY_RESIZE)
        parts = story.split(images, seed)
    setting = story.DIGITS if data is None else story.OWN_DATA
    with Show() as show:
        told = story.tell_story(
            parts,
            out,
            setting,
            attack=attack,
            seed=seed,
            device=device,
            say=say,
            tell=show.tell,
        )
    say(f"picture: {told.picture}; numbers: {out / 'demo.json'}")
    report(out / "purified")
