"""From single cells to the figures of the tables: means over seeds, recovery, clean accuracy, cost. No text."""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eclipse.bench.result import CLEAN, NONE, Failure, Planned, Result, Results
from eclipse.report.grid import paper_numbers

BITES = 0.15
"""A poison bites when it costs the undefended victim at least this accuracy."""
LABELS = "labelled images"
"""What a defense may need that others do without: a comparison leaves such defenses out once."""

_CIFAR10 = re.compile(r"\bcifar-?10\b", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One place of a table: an attack and a defense, with all seeds.

    Attributes:
        borrowed: the cells are those on clean data, because the defense ignores the suspicious images.
    """

    cells: tuple[Result, ...] = ()
    missing: tuple[Planned, ...] = ()
    failed: tuple[tuple[Planned, Failure], ...] = ()
    borrowed: bool = False

    @property
    def mean(self) -> float | None:
        """Accuracy, from 0 to 1, over the finished seeds."""
        return statistics.fmean(cell.accuracy for cell in self.cells) if self.cells else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the finished seeds, of a sample; None for fewer than two."""
        return statistics.stdev(cell.accuracy for cell in self.cells) if len(self.cells) > 1 else None

    @property
    def planned(self) -> int:
        """How many seeds the grid asks for."""
        return len(self.cells) + len(self.missing) + len(self.failed)

    @property
    def partial(self) -> bool:
        """Whether some seeds are finished, but not all that the grid asks for."""
        return bool(self.cells) and not self.borrowed and len(self.cells) < self.planned


@dataclass(frozen=True)
class Section:
    """All cells with the same victim and recipe.

    Attributes:
        attacks: names in the grid's order, clean data first where the grid has it.
        defenses: names in the grid's order.
        entries: by attack and defense; the grid need not have all pairs.
    """

    arch: str
    recipe: str
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    entries: dict[tuple[str, str], Entry]

    @property
    def poisons(self) -> tuple[str, ...]:
        """The attacks without clean data."""
        return tuple(attack for attack in self.attacks if attack != CLEAN)

    @property
    def cells(self) -> tuple[Result, ...]:
        """All finished cells, each once."""
        return tuple(cell for entry in self.entries.values() if not entry.borrowed for cell in entry.cells)

    def entry(self, attack: str, defense: str) -> Entry:
        """Return the entry of a pair, an empty one where the grid has none."""
        return self.entries.get((attack, defense), Entry())

    def mean(self, attack: str, defense: str) -> float | None:
        """Return the mean accuracy of a pair."""
        return self.entry(attack, defense).mean


@dataclass(frozen=True)
class Average:
    """A mean over poisons, and whether all of them that should be in it are."""

    value: float
    poisons: tuple[str, ...]
    complete: bool


@dataclass(frozen=True)
class Cost:
    """Median wall time in seconds of a defense's parts, and times the training without a defense, if that is known."""

    prepare: float
    train: float
    factor: float | None


def make_sections(results: Results) -> tuple[Section, ...]:
    """Split a grid by victim and recipe, in its order; a part without a finished cell is a section, too."""
    groups = dict.fromkeys((plan.arch, plan.recipe) for plan in results.planned)
    return tuple(
        _section(results, [plan for plan in results.planned if (plan.arch, plan.recipe) == group]) for group in groups
    )


def _section(results: Results, plans: Sequence[Planned]) -> Section:
    attacks = sorted(dict.fromkeys(plan.attack for plan in plans), key=lambda attack: attack != CLEAN)
    defenses = tuple(dict.fromkeys(plan.defense for plan in plans))
    pairs = dict.fromkeys((plan.attack, plan.defense) for plan in plans)
    entries = {pair: _entry(results, [plan for plan in plans if (plan.attack, plan.defense) == pair]) for pair in pairs}
    for (_, defense), entry in tuple(entries.items()):
        if any(cell.defense.ignores_data for cell in entry.cells):  # the only one of its defense
            for attack in attacks:
                entries.setdefault((attack, defense), Entry(cells=entry.cells, borrowed=True))
    return Section(plans[0].arch, plans[0].recipe, tuple(attacks), defenses, entries)


def _entry(results: Results, plans: Iterable[Planned]) -> Entry:
    cells, missing, failed = list[Result](), list[Planned](), list[tuple[Planned, Failure]]()
    for plan in sorted(plans, key=lambda plan: plan.seed):
        if plan.cell in results.cells:
            cells.append(results.cells[plan.cell])
        elif plan.cell in results.failures:
            failed.append((plan, results.failures[plan.cell]))
        else:
            missing.append(plan)
    return Entry(tuple(cells), tuple(missing), tuple(failed))


def lost(section: Section, attack: str) -> float | None:
    """How much accuracy a poison costs the undefended victim."""
    clean, poisoned = section.mean(CLEAN, NONE), section.mean(attack, NONE)
    return None if clean is None or poisoned is None else clean - poisoned


def biting(section: Section) -> tuple[str, ...]:
    """The poisons that bite: recovery from the others is a quotient of two differences that are mostly noise."""
    return tuple(poison for poison in section.poisons if (lost(section, poison) or 0.0) >= BITES - 1e-9)


def recovery(section: Section, attack: str, defense: str) -> float | None:
    """(defended - undefended) / (clean - undefended), of the means over seeds; None for a poison that does not bite."""
    defended, undefended, clean = (
        section.mean(attack, defense),
        section.mean(attack, NONE),
        section.mean(CLEAN, NONE),
    )
    if attack not in biting(section) or defended is None or undefended is None or clean is None:
        return None
    return (defended - undefended) / (clean - undefended)


def mean_recovery(section: Section, defense: str) -> Average | None:
    """The mean of the recoveries from all poisons that bite."""
    return _average(biting(section), lambda attack: recovery(section, attack, defense))


def mean_accuracy(section: Section, defense: str, poisons: Sequence[str]) -> Average | None:
    """The mean accuracy over poisons."""
    return _average(poisons, lambda attack: section.mean(attack, defense))


def clean_drop(section: Section, defense: str) -> float | None:
    """How much accuracy on clean data a defense costs; negative where it gains some."""
    plain, defended = section.mean(CLEAN, NONE), section.mean(CLEAN, defense)
    return None if plain is None or defended is None else plain - defended


def best(section: Section, attack: str, *, labels: bool) -> str | None:
    """The defense with the highest mean accuracy on an attack, none at all left out.

    Args:
        section: to choose in.
        attack: a poison.
        labels: let those take part that need trusted images with labels.
    """
    scores = {
        defense: mean
        for defense in section.defenses
        if defense != NONE and (labels or needs(section, defense) != LABELS)
        if (mean := section.mean(attack, defense)) is not None
    }
    return max(scores, key=lambda defense: scores[defense], default=None)


def top(section: Section, attack: str) -> set[str]:
    """The defenses with the highest mean accuracy on an attack, as far as a tenth of a point tells."""
    means = {defense: section.mean(attack, defense) for defense in section.defenses if defense != NONE}
    shown = {defense: round(100 * mean, 1) for defense, mean in means.items() if mean is not None}
    return {defense for defense, value in shown.items() if value == max(shown.values())}


def ranked(section: Section) -> tuple[str, ...]:
    """All defenses by mean recovery, best first; those without all poisons that bite come last, none at all there."""

    def rank(defense: str) -> tuple[bool, bool, float]:
        mean = mean_recovery(section, defense)
        return defense == NONE, mean is None or not mean.complete, -(mean.value if mean else 0.0)

    return tuple(sorted(section.defenses, key=rank))


def cells_of(section: Section, defense: str) -> tuple[Result, ...]:
    """The finished cells with a defense."""
    return tuple(cell for cell in section.cells if cell.defense.name == defense)


def needs(section: Section, defense: str) -> str:
    """What a defense needs that is clean; empty while no cell of it is finished."""
    return next((cell.defense.trusted for cell in cells_of(section, defense)), "")


def cost(section: Section, defense: str) -> Cost | None:
    """What a defense costs; a prepared set and its denoiser, which cells share, are counted in full for each."""
    cells, plain = cells_of(section, defense), cells_of(section, NONE)
    if not cells:
        return None
    prepare = statistics.median((cell.seconds.prepare or 0.0) + (cell.seconds.denoiser or 0.0) for cell in cells)
    train = statistics.median(cell.seconds.train for cell in cells)
    base = statistics.median(cell.seconds.train for cell in plain) if plain else 0.0
    return Cost(prepare, train, (prepare + train) / base if base else None)


def crafting_seconds(section: Section, attack: str) -> float | None:
    """Median wall time of making a poison."""
    times = [cell.seconds.poison for cell in section.cells if cell.attack.name == attack]
    known = [time for time in times if time is not None]
    return statistics.median(known) if known else None


def made_again(section: Section) -> tuple[str, ...]:
    """The attacks whose finished cells are not all of the same images."""
    sets = {(cell.attack.name, cell.attack.fingerprint) for cell in section.cells}
    counts = Counter(attack for attack, _ in sets)
    return tuple(attack for attack in section.attacks if counts[attack] > 1)


def comparable(section: Section) -> bool:
    """Whether the paper has numbers for these data: it has them for CIFAR-10."""
    return bool(section.cells) and all(_CIFAR10.search(cell.data.name) for cell in section.cells)


def paper_accuracy(section: Section, attack: str, defense: str) -> float | None:
    """The paper's accuracy, from 0 to 1, next to the mean of a pair; None where it has none."""
    if not comparable(section):
        return None
    percent = paper_numbers.accuracy(attack, defense, section.arch)
    return None if percent is None else percent / 100


def paper_mean_accuracy(section: Section, defense: str) -> Average | None:
    """The mean of the paper's accuracies, over the poisons that bite here and there; None if it lacks one."""
    mean = _average(tuple(_paper_bite(section)), lambda attack: paper_accuracy(section, attack, defense))
    return mean if mean and mean.complete else None


def paper_mean_recovery(section: Section, defense: str) -> Average | None:
    """The mean recovery by the paper's accuracies, over the poisons that bite here and there; None if it lacks one."""
    bite, clean = _paper_bite(section), _paper_clean(section)

    def recovered(attack: str) -> float | None:
        defended = paper_accuracy(section, attack, defense)
        return None if defended is None else (defended - bite[attack]) / (clean - bite[attack])

    mean = _average(tuple(bite), recovered)
    return mean if mean and mean.complete else None


def _paper_clean(section: Section) -> float:
    """The paper's accuracy without a poison, of the victim of its poisons' numbers."""
    return (paper_numbers.accuracy(CLEAN, NONE, paper_numbers.victim_of_poisons(section.arch)) or 0.0) / 100


def _paper_bite(section: Section) -> dict[str, float]:
    """The paper's accuracies without a defense on the poisons that bite here and there."""
    undefended = {poison: paper_accuracy(section, poison, NONE) for poison in biting(section)}
    clean = _paper_clean(section)
    return {poison: low for poison, low in undefended.items() if low is not None and clean - low >= BITES}


def _average(poisons: Sequence[str], figure: Callable[[str], float | None]) -> Average | None:
    found = {poison: value for poison in poisons if (value := figure(poison)) is not None}
    if not found:
        return None
    return Average(statistics.fmean(found.values()), tuple(found), len(found) == len(poisons))
