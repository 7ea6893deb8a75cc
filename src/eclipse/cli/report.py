"""``eclipse report``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = """Write the tables of a benchmark: Markdown, LaTeX and one HTML page, next to the paper's numbers.

    eclipse report RESULTS

RESULTS is the folder that `eclipse bench` writes, at any time: cells that are missing or failed are shown as such.
"""


def report(
    results: Annotated[Path, typer.Argument(help="the folder of a benchmark", metavar="RESULTS")],
    out: Annotated[
        Path | None, typer.Option(help="write to this folder", metavar="FOLDER", show_default="RESULTS")
    ] = None,
) -> None:
    """Report a benchmark."""
    from eclipse.cli.show import say
    from eclipse.report.grid import write_report

    for path in write_report(results, out):
        say(f"wrote {path}")
