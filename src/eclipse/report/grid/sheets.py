"""The tables of a report as plain text in rows and columns, for renderers that only escape and lay out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eclipse.bench.result import CLEAN, NONE, Results, versions_of
from eclipse.report.grid import figures, paper_numbers
from eclipse.report.grid.figures import Entry, Section
from eclipse.report.grid.wording import duration, percent, points, radius, share
from eclipse.runs.manifest import OURS

BORROWED = "†"


@dataclass(frozen=True)
class Value:
    """What stands at one place of a table; ``best`` is for emphasis."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        words: the columns with words, to align left; the others have numbers.
        notes: sentences below it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    words: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()


def sheets(section: Section) -> tuple[Sheet, ...]:
    """All tables of a section, those without rows left out."""
    found = (_accuracy(section), _defenses(section), _recovery(section), _poisons(section), _ablation(section))
    return tuple(sheet for sheet in found if sheet.rows)


def unfinished(results: Results) -> Sheet:
    """The cells that have no result, and why."""
    rows = list[tuple[str, ...]]()
    for plan in results.planned:
        if plan.cell in results.cells:
            continue
        failure = results.failures.get(plan.cell)
        why = f"failed: {failure.reason}" if failure else "missing: not run yet"
        rows.append((plan.cell, why, failure.command if failure else ""))
    return Sheet("Cells without a result", ("cell", "why", "command"), _values(rows), words=(0, 1, 2))


def entry_in_words(section: Section, attack: str, defense: str) -> str:
    """Mean, spread, the paper's number, and what is missing, at one place of the table of accuracies."""
    entry, paper = section.entry(attack, defense), figures.paper_accuracy(section, attack, defense)
    if entry.mean is None:
        return state(entry)
    spread = "" if entry.spread is None else f" ± {percent(entry.spread)}"
    beside = "" if paper is None else f" [{percent(paper)}]"
    partly = f" ({len(entry.cells)} of {entry.planned})" if entry.partial else ""
    return percent(entry.mean) + spread + (BORROWED if entry.borrowed else "") + beside + partly


def state(entry: Entry) -> str:
    """What an entry without a finished cell is; empty for one that the grid does not have."""
    return "failed" if entry.failed else "missing" if entry.missing else ""


def accuracy_notes(section: Section) -> tuple[str, ...]:
    """What to know to read the table of accuracies."""
    notes = [
        "Accuracy on clean test images in % after the last epoch, mean ± standard deviation over seeds of the victim; "
        "poisons and prepared sets, with their denoisers, are made once, with one seed."
    ]
    if any(entry.borrowed for entry in section.entries.values()):
        notes.append(f"{BORROWED}: the defense ignores the suspicious images, so its result on clean data stands.")
    if again := figures.made_again(section):
        notes.append(f"Not all cells of a column are of the same images: {', '.join(again)} was made more than once.")
    made = versions_of(cell.versions for cell in section.cells)
    if len(made) > 1:
        by = ", ".join(f"{version} ({count} cells)" for version, count in made.items())
        notes.append(f"The cells are of several versions of {OURS}: {by}.")
    return (*notes, *paper_notes(section))


def paper_notes(section: Section) -> tuple[str, ...]:
    """Where the numbers in brackets come from, and what to know about single rows of them."""
    if not figures.comparable(section):
        return ()
    on_clean, on_poisons = paper_numbers.victim(section.arch), paper_numbers.victim_of_poisons(section.arch)
    victims = on_clean if on_clean == on_poisons else f"{on_clean} on clean data and {on_poisons} on poisons"
    where = f"In brackets, the paper's numbers ({paper_numbers.SOURCE}; victim {victims})."
    return (where, *(note for name, note in paper_numbers.NOTES.items() if name in section.defenses))


def _accuracy(section: Section) -> Sheet:
    top = {attack: figures.top(section, attack) for attack in section.attacks}
    rows = tuple(
        (
            Value(defense),
            Value(_seeds(section, defense)),
            *(Value(entry_in_words(section, attack, defense), defense in top[attack]) for attack in section.attacks),
        )
        for defense in section.defenses
    )
    partial = any(entry.partial for entry in section.entries.values())
    notes = ("(1 of 3): as many seeds are finished.",) if partial else ()
    head = ("defense", "seeds", *section.attacks)
    return Sheet("Accuracy", head, rows, notes=(*accuracy_notes(section), *notes))


def _seeds(section: Section, defense: str) -> str:
    """How many finished seeds an entry of a row has: ``3``, or ``1 to 3``."""
    counts = {len(section.entry(attack, defense).cells) for attack in section.attacks} - {0}
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""


def _recovery(section: Section) -> Sheet:
    poisons = figures.biting(section)
    rows = tuple(
        (
            Value(defense),
            *(Value(share(figures.recovery(section, attack, defense))) for attack in poisons),
            Value(average_in_words(figures.mean_recovery(section, defense), len(poisons))),
        )
        for defense in figures.ranked(section)
        if defense != NONE and figures.mean_recovery(section, defense) is not None
    )
    return Sheet("Recovery", ("defense", *poisons, "mean"), rows, notes=(recovery_note(section),))


def recovery_note(section: Section) -> str:
    """What recovery is and over which poisons."""
    return (
        "Recovery = (defended - undefended) / (clean - undefended), of the means over seeds, for the poisons that "
        f"bite: those that cost the undefended victim at least {figures.BITES * 100:.0f} points "
        f"({', '.join(figures.biting(section)) or 'none'})."
    )


def average_in_words(mean: figures.Average | None, of: int) -> str:
    """A mean recovery, and over how many poisons where some are missing."""
    if mean is None:
        return ""
    return share(mean.value) + ("" if mean.complete else f" ({len(mean.poisons)} of {of})")


def _defenses(section: Section) -> Sheet:
    head = (
        *("rank", "defense", "what it is", "needs", "acts on", "mean recovery", "accuracy on poisons", "clean", "drop"),
        *("prepare", "train", "times plain training"),
    )
    notes = (
        recovery_note(section),
        "Accuracy on poisons is the mean over those that bite, drop is what the defense costs on clean data in points.",
        "Times are medians; times plain training: preparation and training over training without a defense; images "
        "that several cells share are prepared once and counted in each, and so is the training of a denoiser.",
        *_paper_mean_note(section),
    )
    rows = [_defense(section, rank, defense) for rank, defense in enumerate(figures.ranked(section), start=1)]
    return Sheet("Defenses, best first", head, _values(rows), words=(1, 2, 3, 4), notes=notes)


def _paper_mean_note(section: Section) -> tuple[str, ...]:
    if not figures.comparable(section):
        return ()
    return ("In brackets, the same by the paper's numbers, over those of these poisons that bite there, too.",)


def _defense(section: Section, rank: int, defense: str) -> tuple[str, ...]:
    about = next((cell.defense for cell in figures.cells_of(section, defense)), None)
    cost, bite = figures.cost(section, defense), len(figures.biting(section))
    mean = figures.mean_recovery(section, defense)
    recovered = average_in_words(mean, bite)
    return (
        str(rank) if defense != NONE and mean and mean.complete else "",
        defense,
        *((about.title, about.trusted, about.acts) if about else ("", "", "")),
        "" if defense == NONE else recovered + _beside(figures.paper_mean_recovery(section, defense), share),
        _mean_accuracy(section, defense),
        entry_in_words(section, CLEAN, defense),
        "" if defense == NONE else points(figures.clean_drop(section, defense)),
        *((duration(cost.prepare), duration(cost.train)) if cost else ("", "")),
        f"{cost.factor:.1f}" if cost and cost.factor is not None else "",
    )


def _mean_accuracy(section: Section, defense: str) -> str:
    bite = figures.biting(section)
    mean = figures.mean_accuracy(section, defense, bite)
    if mean is None:
        return ""
    partly = "" if mean.complete else f" ({len(mean.poisons)} of {len(bite)})"
    return percent(mean.value) + _beside(figures.paper_mean_accuracy(section, defense), percent) + partly


def _beside(paper: figures.Average | None, words: Callable[[float | None], str]) -> str:
    return "" if paper is None else f" [{words(paper.value)}]"


def _poisons(section: Section) -> Sheet:
    head = ("poison", "bound", "scale", "crafting", "undefended", "points lost", "15 or more: bites", "best defense")
    rows = [_poison(section, attack) for attack in section.poisons]
    notes = (f"The last column is the best defense that needs no {figures.LABELS}.", *paper_notes(section)[:1])
    return Sheet(
        "Poisons", (*head, f"best without {figures.LABELS}"), _values(rows), words=(0, 1, 2, 6, 7, 8), notes=notes
    )


def _poison(section: Section, attack: str) -> tuple[str, ...]:
    about = next((cell.attack for cell in section.cells if cell.attack.name == attack), None)
    lost = figures.lost(section, attack)
    return (
        attack,
        (radius(about.norm, about.radius) or ("no bound" if about.norm else "imported")) if about else "",
        (about.scale or "") if about else "",
        duration(figures.crafting_seconds(section, attack)) if about and about.norm else "",
        entry_in_words(section, attack, NONE),
        points(lost),
        "" if lost is None else "yes" if attack in figures.biting(section) else "no",
        *(best_in_words(section, attack, labels=labels) for labels in (True, False)),
    )


def best_in_words(section: Section, attack: str, *, labels: bool) -> str:
    """The best defense of a poison and its accuracy."""
    name = figures.best(section, attack, labels=labels)
    return "" if name is None else f"{name} {percent(section.mean(attack, name))}"


def _ablation(section: Section) -> Sheet:
    """The parts of ECLIPSE, over the poisons of the paper's ablation, where the grid has any part but the whole."""
    poisons = tuple(poison for poison in paper_numbers.ABLATION_POISONS if poison in section.poisons)
    parts = [name for name in paper_numbers.ABLATION_MEANS if figures.mean_accuracy(section, name, poisons)]
    rows = [_part(section, name, poisons) for name in parts] if len(parts) > 1 else []
    notes = (
        f"Mean accuracy over {', '.join(poisons)}.",
        *(
            (f"The paper's means are over {', '.join(paper_numbers.ABLATION_POISONS)}, of a ResNet-18 (Table 4).",)
            if figures.comparable(section)
            else ()
        ),
    )
    head = ("parts", "mean accuracy", "mean recovery", "paper")
    return Sheet("Parts of ECLIPSE", head if figures.comparable(section) else head[:-1], _values(rows), notes=notes)


def _part(section: Section, name: str, poisons: Sequence[str]) -> tuple[str, ...]:
    mean = figures.mean_accuracy(section, name, poisons)
    partly = "" if mean is None or mean.complete else f" ({len(mean.poisons)} of {len(poisons)})"
    recovered = average_in_words(figures.mean_recovery(section, name), len(figures.biting(section)))
    row = (name, percent(mean.value if mean else None) + partly, recovered)
    return (*row, f"{paper_numbers.ABLATION_MEANS[name]:.2f}") if figures.comparable(section) else row


def _values(rows: Sequence[Sequence[str]]) -> tuple[tuple[Value, ...], ...]:
    return tuple(tuple(map(Value, row)) for row in rows)
