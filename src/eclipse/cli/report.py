"""``eclipse report``."""

from pathlib import Path
from typing import Annotated

import typer

HELP = """Write a page about a purification, an audit, a choice or an explanation, or the tables of a benchmark.

    eclipse report PURIFIED

    eclipse report AUDIT

    eclipse report CHOICE

    eclipse report EXPLAIN

    eclipse report RESULTS

PURIFIED is what `eclipse purify` made; PURIFIED.report.html shows images before and after, what was taken away, and
what to do next. It reads the data set that was purified, too, which must be where it was, and refuses images that are
not those that were written.

AUDIT is the folder that `eclipse audit --out` wrote; AUDIT/audit.html shows the verdict, its findings and the most
suspicious rows.

CHOICE is the folder that `eclipse choose` wrote; CHOICE/choice.html shows the treatments, ranked.

EXPLAIN is the folder that `eclipse explain` wrote; EXPLAIN/explain.html shows how noise absorbs the perturbation.

RESULTS is the folder that `eclipse bench` writes, at any time: Markdown, LaTeX, CSV and one HTML page, next to the
paper's numbers; cells that are missing or failed are shown as such.
"""


def report(
    target: Annotated[
        Path,
        typer.Argument(
            help="a purified data set, or the folder of an audit, a choice, an explanation or a benchmark",
            metavar="PURIFIED|AUDIT|CHOICE|EXPLAIN|RESULTS",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="write to this folder", metavar="FOLDER", show_default="beside PURIFIED, or RESULTS"),
    ] = None,
) -> None:
    """Report a purification, an audit, a choice, an explanation or a benchmark."""
    from eclipse.cli.show import say
    from eclipse.report import write_report

    for path in write_report(target, out):
        say(f"wrote {path}")
