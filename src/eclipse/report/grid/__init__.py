"""The report of a benchmark grid: Markdown, LaTeX, CSV and one HTML page, rendered from the results of its cells."""

from pathlib import Path

from eclipse.bench.result import read_results
from eclipse.errors import EclipseError
from eclipse.report.grid.csv import render_csv
from eclipse.report.grid.figures import make_sections
from eclipse.report.grid.html import render_html
from eclipse.report.grid.latex import render_latex
from eclipse.report.grid.markdown import render_markdown
from eclipse.runs.files import write_whole


def write_report(results: Path, out: Path | None = None) -> list[Path]:
    """Write ``report.md``, ``.tex``, ``.csv`` and ``.html``; the same cells give the same bytes.

    Args:
        results: the folder that ``eclipse bench`` wrote.
        out: the folder to write to; None for ``results``.

    Raises:
        EclipseError: there are no results to report, or a file of them is damaged or of another version.
    """
    found, folder = read_results(results), results if out is None else out
    if folder.exists() and not folder.is_dir():
        raise EclipseError(f"the output {str(folder)!r} is a file; expected a folder")
    sections = make_sections(found)
    pages = {
        folder / "report.md": render_markdown(found, sections),
        folder / "report.tex": render_latex(found, sections),
        folder / "report.csv": render_csv(sections),
        folder / "report.html": render_html(found, sections),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in pages.items():
        write_whole(path, text.encode())
    return list(pages)
