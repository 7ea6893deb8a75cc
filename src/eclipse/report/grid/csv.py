"""A report as CSV: one line for each place of the tables of accuracies, for programs and spreadsheets."""

import csv
import io
from collections.abc import Iterable

from eclipse.bench.result import visible
from eclipse.report.grid import figures
from eclipse.report.grid.figures import Section

HEAD = (
    *("victim", "recipe", "attack", "defense", "seeds", "seeds asked for", "accuracy", "standard deviation"),
    *("recovery", "paper's accuracy"),
)
_FORMULAS = ("=", "+", "-", "@")  # what spreadsheets would compute


def render_csv(sections: Iterable[Section]) -> str:
    """Write the lines; shares are from 0 to 1, and what is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEAD)
    for section in sections:
        for attack in section.attacks:
            for defense in section.defenses:
                if section.entry(attack, defense).planned:
                    writer.writerow(_line(section, attack, defense))
    return file.getvalue()


def _line(section: Section, attack: str, defense: str) -> tuple[str | int, ...]:
    entry = section.entry(attack, defense)
    return (
        *map(_text, (section.arch, section.recipe, attack, defense)),
        len(entry.cells),
        entry.planned,
        _share(entry.mean),
        _share(entry.spread),
        _share(figures.recovery(section, attack, defense)),
        _share(figures.paper_accuracy(section, attack, defense)),
    )


def _text(name: str) -> str:
    name = visible(name)
    return f"'{name}" if name.startswith(_FORMULAS) else name


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
