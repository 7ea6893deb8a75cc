"""The figures of a report in words, and the conditions under which they were measured."""

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from eclipse.bench.result import CLEAN, OVERLAP, Result, Results, visible
from eclipse.report.grid.figures import Section

SETS = ("train", "test", "trusted", "clean")
WARNING = (
    "The test images overlap with the trusted images: the protocol is the paper's, so defenses that use trusted images "
    "have seen some of the test images, and their accuracy is too high."
)


def percent(value: float | None) -> str:
    """An accuracy in %, without the sign; empty for None."""
    return "" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of accuracies in points; empty for None."""
    return "" if value is None else f"{100 * value + 0.0:.1f}".replace("-0.0", "0.0")


def share(value: float | None) -> str:
    """A recovery; empty for None."""
    return "" if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00")


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it; empty for None."""
    if seconds is None:
        return ""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def radius(norm: str | None, value: float | None) -> str:
    """A bound in words, L-inf in 8-bit levels; empty for an unbounded attack."""
    if value is None:
        return ""
    return f"{norm} {value * 255:.3g}/255" if norm == "Linf" else f"{norm} {value:.3g}"


def in_words(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings, whatever they are, each as its name and value."""
    return tuple(f"{visible(name)} {_value(value)}" for name, value in fields.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(value if isinstance(value, str) else json.dumps(value))


def several(values: Iterable[str | None]) -> str:
    """Different values, each once, in the order in which they come."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def numbers(values: Iterable[int]) -> str:
    """Different whole numbers, rising."""
    return ", ".join(map(str, sorted(set(values))))


def sizes(values: Iterable[int]) -> str:
    """Different large numbers, rising."""
    return " or ".join(f"{value:,}" for value in sorted(set(values)))


def whole_grid(command: str) -> str:
    """The command for all cells of a grid, from that for one."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    if "--cell" not in words:
        return command
    place = words.index("--cell")
    return shlex.join(words[:place] + words[place + 2 :])


def commands(cells: Iterable[Result]) -> tuple[str, ...]:
    """The commands that make these cells again."""
    return tuple(dict.fromkeys(whole_grid(cell.command) for cell in cells))


def overlaps(results: Results) -> bool:
    """Whether test images are among the trusted ones."""
    return OVERLAP in (results.protocol, *(cell.protocol for cell in results.cells.values()))


def caption(section: Section) -> str:
    """The conditions of a section in one paragraph, for the caption of each of its tables."""
    cells = section.cells
    if not cells:
        return f"Victim {section.arch}, recipe {section.recipe}: no cell is finished yet"
    images = several(f"{cell.data.train_images:,} training and {cell.data.test_images:,} test images" for cell in cells)
    epochs = numbers(len(cell.epochs) for cell in cells)
    return (
        f"{several(cell.data.name for cell in cells)}, {images}; victim {section.arch} "
        f"({sizes(cell.victim.parameters for cell in cells)} parameters), recipe {section.recipe}, {epochs} epochs, "
        f"accuracy after the last one; seeds {numbers(cell.seed for cell in cells)}; "
        f"{several(cell.device for cell in cells)}; protocol {_protocol(cells)}"
    )


def _protocol(cells: Iterable[Result]) -> str:
    words = {OVERLAP: f"{OVERLAP}: TEST IMAGES OVERLAP WITH THE TRUSTED ONES"}
    return several(words.get(cell.protocol, cell.protocol) for cell in cells)


def conditions(section: Section) -> tuple[tuple[str, str], ...]:
    """All conditions of a section by name, without its commands."""
    cells = section.cells
    slices = several(f"{name}: {spec}" for cell in cells for name in SETS if (spec := getattr(cell.data, name)))
    shapes = several(f"{'x'.join(map(str, cell.data.image))}, {cell.data.classes} classes" for cell in cells)
    found = {
        "data set": several(cell.data.name for cell in cells),
        "slices": slices,
        "training images": sizes(cell.data.train_images for cell in cells),
        "test images": sizes(cell.data.test_images for cell in cells),
        "trusted images": sizes(cell.data.trusted_images for cell in cells if cell.data.trusted_images),
        "images": shapes,
        "resized to": sizes(cell.data.resize for cell in cells if cell.data.resize),
        "victim": f"{section.arch}, {sizes(cell.victim.parameters for cell in cells)} parameters",
        "imported poisons": several(f"{cell.attack.name}: {_imported(cell)}" for cell in cells if _is_imported(cell)),
        "recipe": several(", ".join((f"name {cell.recipe.name}", *in_words(cell.recipe.fields))) for cell in cells),
        "epochs": f"{numbers(len(cell.epochs) for cell in cells)}; the last one counts",
        "seeds": numbers(cell.seed for cell in cells),
        "scale of attacks": several(cell.attack.scale for cell in cells),
        "scale of defenses": several(cell.defense.scale for cell in cells),
        "protocol": _protocol(cells),
        "device": several(cell.device for cell in cells),
        "versions": several(words for cell in cells for words in in_words(cell.versions)),
        "finished": f"{min(cell.finished for cell in cells)} to {max(cell.finished for cell in cells)}",
    }
    return tuple((name, text) for name, text in found.items() if text)


def _is_imported(cell: Result) -> bool:
    return cell.attack.name != CLEAN and cell.attack.norm is None


def _imported(cell: Result) -> str:
    return ", ".join(in_words(cell.attack.fields))


def progress(results: Results) -> str:
    """How much of a grid is done."""
    total, done, failed = len(results.planned), len(results.cells), len(results.failures)
    parts = [f"{done} of {total} cells are finished"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{total - done - failed} missing"] if total > done + failed else []
    strays = f"; left out: {results.strays} of another grid or other settings" if results.strays else ""
    return ", ".join(parts) + strays + "."
