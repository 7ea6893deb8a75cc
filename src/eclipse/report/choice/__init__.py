"""The page of a choice: treatments ranked, with what is not certain about it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eclipse.errors import reading
from eclipse.jobs.choose import CHOICE, next_command, read_choice
from eclipse.report import page
from eclipse.report.plots import ACCENT, MUTED, plot
from eclipse.runs.manifest import read_manifest


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write the page of a choice.

    Args:
        folder: the result of ``eclipse choose``.
        out: the folder to write to; None for the result's own.

    Raises:
        EclipseError: a file of it is damaged.
    """
    settings, found = read_manifest(folder)["settings"], read_choice(folder)
    with reading(folder / CHOICE, "the result of a choice", "expected the folder that 'eclipse choose' wrote"):
        spec, trusted, ranked = settings["dataset"]["spec"], settings["trusted"]["spec"], found["ranked"]
        none = next((tried["accuracy"] for tried in ranked if tried["words"] == "none"), None)
        text = page.render(
            "choice/choice.html.jinja",
            spec=spec,
            trusted=trusted,
            found=found,
            untreated=none,
            ranked=[(tried, None if none is None else tried["accuracy"] - none) for tried in ranked],
            chart=plot(_chart(ranked, none), (7.5, 0.5 + 0.32 * len(ranked)), "accuracy of each treatment"),
            commands=[(words, next_command(words, spec, trusted)) for words in _to_try(found)],
        )
    return [page.write(text, folder if out is None else out, "choice.html")]


def _to_try(found: Any) -> list[str]:
    """The treatment to go on with, and those that are next to it."""
    return list(dict.fromkeys([found["best"], *(tried["words"] for tried in found["ranked"][:3])]))


def _chart(ranked: Sequence[Any], none: float | None) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = range(len(ranked))
        accuracies, errors = (
            [times * tried[name] for tried in ranked] for name, times in (("accuracy", 100), ("error", 200))
        )
        axes.errorbar(accuracies, places, xerr=errors, fmt="o", color=ACCENT, elinewidth=2)
        if none is not None:
            axes.axvline(100 * none, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.set_yticks(places, [tried["words"] for tried in ranked])
        axes.invert_yaxis()
        axes.set_xlabel("accuracy on trusted images in %")

    return draw
