"""The page of an explanation: how noise absorbs the perturbation, and what part A leaves of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import around_gray
from eclipse.errors import reading
from eclipse.jobs.explain import FOUND
from eclipse.report import page
from eclipse.report.plots import ACCENT, HUES, MUTED, plot
from eclipse.runs.files import read_json
from eclipse.runs.manifest import read_manifest, to_copy

_TIMES = 8  # by which changes are shown
_READ = {
    "perturbation": "the perturbation alone",
    "poisoned": "poisoned images",
    "clean": "images before",
}


@dataclass(frozen=True)
class Strip:
    """An image at all levels: captions and addresses of pictures, level by level, of one size on the page."""

    name: str
    first: tuple[tuple[str, str], ...]
    levels: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    size: tuple[int, int]


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write the page of an explanation.

    Args:
        folder: the result of ``eclipse explain``.
        out: the folder to write to; None for the result's own.

    Raises:
        EclipseError: a file of it is damaged.
    """
    manifest = read_manifest(folder)
    with reading(folder / FOUND, "the result of an explanation", "expected the folder that 'eclipse explain' wrote"):
        found, settings = read_json(folder / FOUND), manifest["settings"]
        spec = settings["dataset"]["spec"]
        text = page.render(
            "explain/explain.html.jinja",
            spec=spec,
            clean=settings["clean"]["spec"],
            found=found,
            headlines=_headlines(found),
            apart=plot(_apart(found["noise"]), (7.5, 3), "how far apart noised images are"),
            read=None if found["unread"] else plot(_read(found), (7.5, 3), "labels that a probe reads under noise"),
            left=plot(_left(found), (7.5, 3), "what part A leaves by noise level"),
            read_names=_READ,
            strips=_strips(folder, [level["sigma"] for level in found["purified"]]),
            times=_TIMES,
            command=to_copy("eclipse", "purify", spec, "--sigma", "auto", "--out", "PURIFIED", "--report"),
        )
    return [page.write(text, folder if out is None else out, "explain.html")]


def _headlines(found: Any) -> tuple[tuple[str, str], ...]:
    first, last = found["purified"][0], found["purified"][-1]
    return (
        ("perturbation", f"{found['largest']:.0f} levels at most, L2 {found['length']:.2f}"),
        *(
            (f"left by part A at {level['sigma']:g}/255", f"{max(0.0, level['left']):.0%}")
            for level in ({first["sigma"]: first, last["sigma"]: last}).values()
        ),
        ("looked at", f"{found['rows']:,} of {found['images']:,}"),
    )


def _apart(rungs: Sequence[Any]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = _axes(figure, [rung["sigma"] for rung in rungs], "noise in levels (of 255)")
        sigmas = [rung["sigma"] for rung in rungs]
        least, most = zip(*(rung["apart"] for rung in rungs), strict=True)
        axes.fill_between(sigmas, least, most, color=MUTED, alpha=0.2, linewidth=0)
        axes.plot(sigmas, most, color=MUTED, marker="o", label="at most: an image and its poisoned copy")
        axes.plot(sigmas, least, color=ACCENT, marker="o", label="at least: seen by a linear model")
        axes.set_ylim(0, 1.03)
        axes.set_ylabel("total variation")
        axes.legend()

    return draw


def _read(found: Any) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        rungs = found["noise"]
        sigmas = [rung["sigma"] for rung in rungs]
        axes = _axes(figure, sigmas, "noise in levels (of 255)")
        for color, (name, words) in zip((HUES[1], ACCENT, MUTED), _READ.items(), strict=True):
            axes.plot(sigmas, [100 * rung["read"][name] for rung in rungs], color=color, marker="o", label=words)
        _chance(axes, found)
        axes.legend()

    return draw


def _left(found: Any) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        levels = found["purified"]
        sigmas = [level["sigma"] for level in levels]
        axes = _axes(figure, sigmas, "noise level of the purification (of 255)")
        axes.plot(sigmas, [100 * level["left"] for level in levels], color=ACCENT, marker="o", label="share left")
        if not found["unread"]:
            for color, (name, words) in zip((HUES[1], MUTED), _LEFT.items(), strict=True):
                axes.plot(sigmas, [100 * level["read"][name] for level in levels], color=color, marker="o", label=words)
            _chance(axes, found)
        axes.set_ylim(min(0, *(100 * level["left"] for level in levels)), 103)
        axes.legend()

    return draw


_LEFT = {"left": "labels read in what is left", "poisoned": "labels read in purified images"}


def _axes(figure: Any, sigmas: Sequence[float], label: str) -> Any:
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
    axes.minorticks_off()
    axes.set_xlabel(label)
    return axes


def _chance(axes: Any, found: Any) -> None:
    axes.axhline(100 * found["chance"], color=MUTED, linestyle=":", label="chance")
    axes.set_ylim(0, 103)
    axes.set_ylabel("%")


def _strips(folder: Path, sigmas: Sequence[float]) -> list[Strip]:
    images = {path.stem: ImageSet.load(path) for path in sorted(folder.glob("*.npz"))}
    clean, poisoned = images["clean"], images["poisoned"]
    width, height = page.enlarged(*clean.images.shape[2:]) or clean.images.shape[:1:-1]
    size = (int(width) * 3 // 5, int(height) * 3 // 5)
    found = list[Strip]()
    for i, id in enumerate(clean.ids):
        before, after = clean.images[i], poisoned.images[i]
        first = (("before", before), ("poisoned", after), ("perturbation", _difference(after, before)))
        levels = []
        for sigma in sigmas:
            kept, cleaned = (images[f"{name}-{sigma:g}"].images[i] for name in ("purified", "purified-clean"))
            noised = images[f"noised-{sigma:g}"].images[i]
            parts = (("noised", noised), ("purified", kept), ("left", _difference(kept, cleaned)))
            levels.append((f"{sigma:g}/255", tuple((name, page.picture(pixels)) for name, pixels in parts)))
        of = f", {name}" if (name := page.class_of(clean, i)) else ""
        shown = tuple((name, page.picture(pixels)) for name, pixels in first)
        found.append(Strip(page.named(id) + of, shown, tuple(levels), size))
    return found


def _difference(after: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What was added, enlarged, around middle gray."""
    return around_gray(after.astype(np.int16) - before, _TIMES)
