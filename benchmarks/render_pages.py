"""Write the tables of README.md and docs that follow from results and code, between their markers.

python benchmarks/render_pages.py
"""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch

from eclipse.bench.result import read_results
from eclipse.diffusion.denoiser import build_denoiser
from eclipse.diffusion.presets import FAST, PAPER, Preset
from eclipse.report.grid import figures, wording
from eclipse.report.grid.figures import Section

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "research.md", ROOT / "docs" / "data.md")

DEFENSES = {
    "none": "",
    "eclipse-general": "the general denoiser, no clean image",
    "eclipse-tuned": "that, fine-tuned on the trusted images",
    "eclipse": "",
    "avatar": "a denoiser of 38,000 clean images",
    "one-step": "denoising alone",
    "at": "adversarial training",
    "iss-j": "JPEG",
    "aa": "UEraser",
    "d-vae": "",
    "eclipse-trusted": "the trusted images have labels",
    "trusted-only": "these alone",
}


def results_table(folder: str) -> str:
    """The conditions of a grid with one victim, and in short those of its defenses that met all poisons that bite."""
    (section,) = figures.make_sections(read_results(ROOT / "benchmarks" / "results" / folder))
    rows = (_row(section, defense, words) for defense, words in DEFENSES.items())
    bites, clean = figures.biting(section), section.mean("clean", "none")
    ranked = sorted((section.mean(poison, "eclipse") or 0.0, poison) for poison in bites)
    (low, worst), (high, best) = ranked[0], ranked[-1]
    return "\n".join(
        (
            _wrapped(
                f"{wording.caption(section)}. Means over the poisons that bite: {', '.join(bites)}. "
                f"Command: `{' '.join(wording.commands(section.cells))}`."
            ),
            "",
            "| defense | seeds | recovery | accuracy on poisons in % | accuracy on clean data in % |",
            "|---|--:|--:|--:|--:|",
            *filter(None, rows),
            "",
            _wrapped(
                f"With `eclipse`, accuracy is {wording.percent(low)} % ({worst}) to {wording.percent(high)} % ({best}) "
                f"on single poisons, where {wording.percent(clean)} % is clean. On data that were never poisoned it "
                f"costs {wording.points(figures.clean_drop(section, 'eclipse'))} points."
            ),
        )
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _row(section: Section, defense: str, words: str) -> str:
    clean, bites = section.entry("clean", defense), figures.biting(section)
    recovered, accuracy = figures.mean_recovery(section, defense), figures.mean_accuracy(section, defense, bites)
    if clean.mean is None or not (recovered and recovered.complete and accuracy and accuracy.complete):
        return ""
    cells = (
        f"`{defense}`" + (f" ({words})" if words else ""),
        f"{len(clean.cells)}",
        "" if defense == "none" else wording.share(recovered.value),
        wording.percent(accuracy.value),
        wording.percent(clean.mean) + ("" if clean.spread is None else f" ± {wording.percent(clean.spread)}"),
    )
    return f"| {' | '.join(cells)} |"


def presets_table() -> str:
    """The numbers of both presets, side by side."""
    rows = zip(_numbers(FAST), _numbers(PAPER), strict=True)
    lines = (f"| {title} | {fast} | {paper} |" for (title, fast), (_, paper) in rows)
    return "\n".join(("| | `fast` (default) | `paper` |", "|---|---|---|", *lines))


def _numbers(preset: Preset) -> tuple[tuple[str, str], ...]:
    training, size = preset.training, preset.denoiser.image_size
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_denoiser(preset.denoiser).parameters())
    network = "a small U-Net of our own" if preset is FAST else "the U-Net of improved diffusion"
    highest = preset.denoiser.schedule.sigma(preset.denoiser.t_max - 1)
    return (
        ("network", f"{network}, {parameters:,} parameters"),
        ("image size", "any" if size is None else f"{size}x{size}"),
        ("noise level", f"{255 * preset.sigma:.1f}/255"),
        ("network evaluations an image", f"{preset.steps}, `{preset.sampler}`"),
        ("trained on noise levels up to", f"{255 * highest:.1f}/255"),
        ("training", f"{training.iterations:,} steps of {training.batch} images, learning rate {training.lr}"),
        ("average of the weights", f"{training.ema}"),
        ("copies of the trusted set", f"{training.copies}"),
        ("compensation", f"p = {preset.p}, noise = {preset.noise}, q = {preset.q:g}"),
    )


def memory_table() -> str:
    """What ``memory.py`` measured."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())
    found = measured["inputs"]
    names = list(next(iter(found.values())))
    rows = (f"| {title} | {' | '.join(f'{row[name]:,}' for name in names)} |" for title, row in found.items())
    return "\n".join(
        (
            f"| {measured['device']} | {' | '.join(names)} |",
            f"|---|{'--:|' * len(names)}",
            *rows,
            "",
            f"Command: `python benchmarks/{measured['command']}`.",
        )
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "central table": lambda: results_table("cpu"),
    "AVX2 table": lambda: results_table("cpu-avx2"),
    "general table": lambda: results_table("general"),
    "presets": presets_table,
    "memory": memory_table,
}


def rendered(page: str) -> str:
    """Return a page with its tables as they should be."""
    return re.sub(
        r"(<!-- rendered: (.+?) -->\n).*?(?=<!-- end -->)",
        lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
