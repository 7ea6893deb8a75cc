"""A report as one HTML page: a heat map whose tiles open their details, and the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eclipse.bench.result import CLEAN, NONE, Result, Results
from eclipse.report import page
from eclipse.report.grid import figures, wording
from eclipse.report.grid.chart import chart
from eclipse.report.grid.figures import Section
from eclipse.report.grid.sheets import (
    BORROWED,
    Sheet,
    accuracy_notes,
    average_in_words,
    best_in_words,
    sheets,
    state,
    unfinished,
)
from eclipse.report.grid.wording import duration, in_words, percent, points, radius, several, share

SHADES = 9
"""Colors of the heat map, from chance to the accuracy of the undefended victim on clean data."""
WIDTH, HEIGHT = 520, 96
"""Of the curve of accuracies, in the units of its own picture."""


@dataclass(frozen=True)
class Run:
    """A seed in the details of a tile; ``problem`` is why it has no result."""

    seed: int
    accuracy: str = ""
    times: str = ""
    finished: str = ""
    command: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Tile:
    """One place of the heat map.

    Attributes:
        shade: its color, from 0 to ``SHADES - 1``; -1 where there is no result.
        curves: accuracy after each epoch for each seed, as points of a polyline.
        settings: what the poison and the defense were made with, by name.
        level: height of the undefended victim's accuracy on clean data in the same picture.
    """

    id: str
    title: str
    text: str
    spread: str
    paper: str
    tooltip: str
    shade: int
    best: bool
    partial: bool
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    curves: tuple[str, ...]
    level: str


@dataclass(frozen=True)
class Row:
    """A defense in the heat map; ``bar`` is its mean recovery in %, cut to 0 to 100."""

    defense: str
    title: str
    tiles: tuple[Tile | None, ...]
    recovery: str
    bar: int


@dataclass(frozen=True)
class Part:
    """A section of the page; ``chart`` is the SVG of what defenses cost and bring, where there are several."""

    arch: str
    recipe: str
    caption: str
    commands: tuple[str, ...]
    headlines: tuple[tuple[str, str], ...]
    attacks: tuple[tuple[str, bool], ...]
    chart: Any
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    conditions: tuple[tuple[str, str], ...]


def render_html(results: Results, sections: Sequence[Section]) -> str:
    """Write the page."""
    return page.render(
        "grid/grid.html.jinja",
        name=results.name,
        progress=wording.progress(results),
        warning=wording.WARNING if wording.overlaps(results) else "",
        parts=[_part(section, f"s{number}") for number, section in enumerate(sections)],
        unfinished=unfinished(results),
        shades=SHADES,
        width=WIDTH,
        height=HEIGHT,
    )


def _part(section: Section, prefix: str) -> Part:
    bite = figures.biting(section)
    return Part(
        arch=section.arch,
        recipe=section.recipe,
        caption=wording.caption(section),
        commands=wording.commands(section.cells),
        headlines=_headlines(section),
        attacks=tuple((attack, attack == CLEAN or attack in bite) for attack in section.attacks),
        chart=chart(section),
        rows=tuple(_row(section, defense, f"{prefix}d{number}") for number, defense in enumerate(_order(section))),
        notes=accuracy_notes(section),
        sheets=sheets(section)[1:],  # the first is the heat map
        conditions=wording.conditions(section) if section.cells else (),
    )


def _order(section: Section) -> tuple[str, ...]:
    """The undefended victim first, then the best defense first."""
    return tuple(sorted(figures.ranked(section), key=lambda defense: defense != NONE))


def _headlines(section: Section) -> tuple[tuple[str, str], ...]:
    """The few figures that a reader looks for first."""
    leaders = [name for name in figures.ranked(section) if name != NONE and figures.mean_recovery(section, name)]
    fair = [name for name in leaders if figures.needs(section, name) != figures.LABELS]
    found = {
        "clean accuracy, no defense": f"{percent(section.mean(CLEAN, NONE))} %" if section.mean(CLEAN, NONE) else "",
        "poisons that bite (cost 15 points or more)": f"{len(figures.biting(section))} of {len(section.poisons)}",
        "best mean recovery": _leader(section, leaders),
        f"best without {figures.LABELS}": _leader(section, fair) if fair[:1] != leaders[:1] else "",
    }
    return tuple((name, text) for name, text in found.items() if text)


def _leader(section: Section, leaders: Sequence[str]) -> str:
    if not leaders:
        return ""
    mean = figures.mean_recovery(section, leaders[0])
    return f"{leaders[0]} {average_in_words(mean, len(figures.biting(section)))}"


def _row(section: Section, defense: str, prefix: str) -> Row:
    mean, about = figures.mean_recovery(section, defense), figures.cells_of(section, defense)
    recovered = "" if defense == NONE else average_in_words(mean, len(figures.biting(section)))
    return Row(
        defense,
        about[0].defense.title if about else "",
        tuple(_tile(section, attack, defense, f"{prefix}a{n}") for n, attack in enumerate(section.attacks)),
        recovered,
        round(100 * min(max(mean.value, 0.0), 1.0)) if mean and recovered else 0,
    )


def _tile(section: Section, attack: str, defense: str, name: str) -> Tile | None:
    entry, paper = section.entry(attack, defense), figures.paper_accuracy(section, attack, defense)
    if not entry.cells and not entry.planned:
        return None
    mean, facts = entry.mean, _facts(section, attack, defense)
    return Tile(
        id=name,
        title=f"{defense} on {attack}",
        text=state(entry) if mean is None else percent(mean) + (BORROWED if entry.borrowed else ""),
        spread="" if entry.spread is None else f"±{percent(entry.spread)}",
        paper="" if paper is None else percent(paper),
        tooltip=f"{defense} on {attack}: " + (", ".join(f"{key} {value}" for key, value in facts) or state(entry)),
        shade=-1 if mean is None else _shade(section, mean),
        best=defense in figures.top(section, attack),
        partial=entry.partial,
        facts=(*facts, *_about(entry.cells)),
        settings=_settings(entry.cells),
        runs=(
            *map(_run, entry.cells),
            *(Run(plan.seed, command=why.command, problem=f"failed: {why.reason}") for plan, why in entry.failed),
            *(Run(plan.seed, problem="missing: not run yet") for plan in entry.missing),
        ),
        curves=tuple(_curve([epoch.accuracy for epoch in cell.epochs]) for cell in entry.cells if len(cell.epochs) > 1),
        level=_height(section.mean(CLEAN, NONE)),
    )


def _facts(section: Section, attack: str, defense: str) -> tuple[tuple[str, str], ...]:
    """The figures of a place of the table, by name."""
    entry, paper = section.entry(attack, defense), figures.paper_accuracy(section, attack, defense)
    spread = "" if entry.spread is None else f" ± {percent(entry.spread)}"
    poison = attack != CLEAN and defense != NONE
    found = {
        "accuracy": "" if entry.mean is None else f"{percent(entry.mean)}{spread} %",
        "recovery": share(figures.recovery(section, attack, defense)) if poison else "",
        "points lost to the defense": points(figures.clean_drop(section, defense)) if attack == CLEAN else "",
        "points lost to the poison": points(figures.lost(section, attack)) if defense == NONE else "",
        "paper": "" if paper is None else f"{percent(paper)} %",
        "best on this poison": best_in_words(section, attack, labels=True) if poison else "",
        "borrowed": "the result on clean data: the defense ignores the suspicious images" if entry.borrowed else "",
    }
    return tuple((name, text) for name, text in found.items() if text and (entry.cells or name == "paper"))


def _about(cells: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    """What the poison and the defense are, in words."""
    found = {
        "poison": several(_poison(cell) for cell in cells),
        "defense": several(cell.defense.title for cell in cells),
        "needs": several(cell.defense.trusted for cell in cells),
        "acts on": several(cell.defense.acts for cell in cells),
    }
    return tuple((name, text) for name, text in found.items() if text)


def _poison(cell: Result) -> str:
    """The strength of a poison, and where its numbers are from."""
    attack = cell.attack
    if attack.name == CLEAN:
        return ""
    if attack.norm is None:
        return "imported"
    scale = {"paper": "as published", "small": "reduced for a processor"}.get(attack.scale or "", "")
    return ", ".join(filter(None, (radius(attack.norm, attack.radius) or "no bound", scale)))


def _settings(cells: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    """What the poison and the defense were made with."""
    attack = several(_listed(cell.attack.scale, cell.attack.fields) for cell in cells)
    defense = several(_listed(cell.defense.scale, cell.defense.fields) for cell in cells)
    return tuple((name, text) for name, text in (("attack", attack), ("defense", defense)) if text)


def _listed(scale: str | None, fields: Mapping[str, Any]) -> str:
    return ", ".join((*((f"scale {scale}",) if scale else ()), *in_words(fields)))


def _run(cell: Result) -> Run:
    parts = {name: getattr(cell.seconds, name) for name in ("poison", "prepare", "denoiser", "train")}
    times = ", ".join(f"{name} {duration(time)}" for name, time in parts.items() if time)
    return Run(cell.seed, f"{percent(cell.accuracy)} %", times, cell.finished, cell.command)


def _shade(section: Section, accuracy: float) -> int:
    """The color of an accuracy, on the way from chance to clean."""
    low = 1 / max(section.cells[0].data.classes, 1)
    high = max(section.mean(CLEAN, NONE) or 1.0, low + 0.01)
    return min(max(int((accuracy - low) / (high - low) * SHADES), 0), SHADES - 1)


def _curve(history: Sequence[float]) -> str:
    """The points of a polyline, the last one at the right edge."""
    step = WIDTH / (len(history) - 1)
    return " ".join(f"{epoch * step:.1f},{_height(accuracy)}" for epoch, accuracy in enumerate(history))


def _height(accuracy: float | None) -> str:
    """Where an accuracy lies in the picture of curves, from its top; empty for None."""
    return "" if accuracy is None else f"{HEIGHT * (1 - accuracy):.1f}"
