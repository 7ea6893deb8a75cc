"""The page of an audit: the verdict, each finding against its null, and the most suspicious rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eclipse.data.imageset import ImageSet
from eclipse.data.pixels import around_gray
from eclipse.detectors import DETECTORS
from eclipse.errors import reading
from eclipse.jobs.audit import FINDINGS, SUSPECTS, is_able, judged, next_command, p_in_words, share_in_words
from eclipse.report import page
from eclipse.report.plots import ACCENT, MUTED, plot
from eclipse.runs.files import read_json
from eclipse.runs.manifest import read_manifest

_TIMES = 16  # by which a residual is shown
_FAMILIES = {
    "class-wise": "one pattern for each class, such as random class-wise noise (URP) or one pixel (OPS)",
    "low-frequency": "smooth or coarse patterns, such as linearly separable patches (LSP): grayscale helps",
    "high-frequency": "fine texture that networks read and people do not, such as autoregressive noise (AR) or "
    "error-minimizing noise (EM)",
    "error-maximizing": "features of one other class in the images of each class, as TAP and SEP put them there",
    "blur": "each class is blurred or sharpened in its own way, as CUDA does",
    "unknown": "what networks learn from the set does not hold on clean images; the findings do not tell how",
}


@dataclass(frozen=True)
class Row:
    """A finding for the template."""

    name: str
    title: str
    words: str
    p: str
    verdict: str
    plot: Any


@dataclass(frozen=True)
class Suspect:
    """A suspicious row: addresses of its picture and of what purification takes away."""

    name: str
    label: str
    image: str
    residual: str
    size: tuple[int, int]


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write the page of an audit.

    Args:
        folder: the result of ``eclipse audit``.
        out: the folder to write to; None for the result's own.

    Raises:
        EclipseError: a file of it is damaged.
    """
    manifest, wrong = read_manifest(folder), "expected the folder that 'eclipse audit' wrote"
    with reading(folder / FINDINGS, "the result of an audit", wrong):
        found = read_json(folder / FINDINGS)
        settings = manifest["settings"]
        spec, trusted = settings["dataset"]["spec"], settings["trusted"]
        text = page.render(
            "audit/audit.html.jinja",
            spec=spec,
            trusted=trusted and trusted["spec"],
            found=found,
            headlines=_headlines(found),
            family=_FAMILIES.get(found["family"], found["family"]),
            rows=[_row(name, finding, found) for name, finding in found["findings"].items()],
            suspects=_suspects(folder) if found["suspicious"] else [],
            times=_TIMES,
            able=is_able(found),
            command=next_command(spec, trusted and trusted["spec"]),
        )
    return [page.write(text, folder if out is None else out, "audit.html")]


def _headlines(found: Any) -> tuple[tuple[str, str], ...]:
    share = found["share"]
    return (
        ("verdict", "suspicious" if found["suspicious"] else "nothing found" if is_able(found) else "none"),
        ("likely kind", found["family"] or "-"),
        ("poisoned rows, estimated", "-" if share is None else share_in_words(share)),
        ("looked at", f"{found['looked at']:,} of {found['images']:,}"),
    )


def _row(name: str, finding: Any, found: Any) -> Row:
    detector = DETECTORS.load(name)
    return Row(
        name,
        detector.title,
        finding["words"][:1].upper() + finding["words"][1:],
        p_in_words(finding["p"]),
        judged(name, found),
        plot(_against_null(finding["statistic"], *finding["null"]), (4.6, 1.5), f"{name} against its null"),
    )


def _against_null(statistic: float, mean: float, deviation: float) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        low, high = min(mean - 4 * deviation, statistic - deviation), max(mean + 4 * deviation, statistic + deviation)
        x = np.linspace(low, high, 400)
        density = np.exp(-0.5 * ((x - mean) / deviation) ** 2)
        axes.fill_between(x, density, color=MUTED, alpha=0.35, linewidth=0)
        axes.axvline(statistic, color=ACCENT, linewidth=2.5)
        axes.set_yticks([])
        axes.set_xlabel("gray: clean sets at most; line: this set")

    return draw


def _suspects(folder: Path) -> list[Suspect]:
    images, purified = (ImageSet.load(folder / f"{SUSPECTS}{part}.npz") for part in ("", "-purified"))
    taken = images.images.astype(np.int16) - purified.images
    residuals = around_gray(taken, _TIMES)
    size = page.enlarged(*images.images.shape[2:]) or images.images.shape[:1:-1]
    found = list[Suspect]()
    for i, id in enumerate(images.ids):
        pictures = (page.picture(images.images[i]), page.picture(residuals[i]))
        found.append(Suspect(page.named(id), page.class_of(images, i), *pictures, (int(size[0]), int(size[1]))))
    return found
