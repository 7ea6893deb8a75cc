"""The page of a purification: what was done to a data set, seen and measured on the images before and after."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eclipse.data.output import fingerprint_of_output
from eclipse.data.source import open_source
from eclipse.data.store import Source
from eclipse.errors import EclipseError, reading
from eclipse.report import page
from eclipse.report.purified import figures
from eclipse.report.purified.measure import Measured, measure
from eclipse.report.purified.wording import Told, told
from eclipse.runs.manifest import read_manifest, run_json

_PICTURES = 3_200_000  # bytes of all pictures of the gallery, of the 5 MB that a page may have
_LEFT_OUT = 50  # images that are listed
_HINT = 3.0  # times what chance would give, from where on a pattern by class is worth a word


def write_report(purified: Path, out: Path | None = None) -> list[Path]:
    """Write ``PURIFIED.report.html``; the same data sets give the same bytes.

    Args:
        purified: the purified data set, whose manifest lies beside it.
        out: the folder to write to; None for the one that the data set lies in.

    Raises:
        EclipseError: the manifest is damaged, or tells of no finished purification; the data sets are not those that
            it tells of.
    """
    manifest = run_json(purified)
    found = read_manifest(purified)
    with reading(manifest, "the manifest of a purification", "expected one that 'eclipse purify' wrote"):
        facts = told(found)
    if found["status"] != "complete":
        raise EclipseError(
            f"the purification {manifest} is not finished (status {found['status']}); run its command again first"
        )
    source, output = _opened(facts, purified)
    measured = measure(source, output, facts.skipped, figures.card)
    text = _render(purified.name, facts, measured)
    return [page.write(text, purified.parent if out is None else out, f"{purified.name}.report.html")]


def _opened(facts: Told, purified: Path) -> tuple[Source, Source]:
    """Both data sets, if they are as the manifest tells."""
    source = open_source(
        facts.spec, image_column=facts.image_column, label_column=facts.label_column, longest=facts.max_side
    )
    if source.fingerprint() != facts.fingerprint:
        raise EclipseError(
            f"{facts.spec} is not as it was when it was purified; expected the same files, of the same times: run the "
            "purification again, or give the report where they are unchanged"
        )
    keeps = facts.layout == facts.format
    columns = (facts.image_column, facts.label_column) if keeps else (None, None)
    output = open_source(purified, image_column=columns[0], label_column=columns[1])
    if len(output) != facts.purified or len(source) != facts.purified + len(facts.skipped):
        raise EclipseError(
            f"{purified} has {len(output):,} images, and its manifest tells of {facts.purified:,}; expected the data "
            "set that it was written for"
        )
    if facts.made not in ("", fingerprint_of_output(source, output, facts.skipped)):
        raise EclipseError(
            f"{purified} does not hold the images that its manifest tells of, by their fingerprint; expected the data "
            "set as it was written: purify again, into another output"
        )
    return source, output


def _render(name: str, facts: Told, measured: Measured) -> str:
    patterns, times = figures.patterns(measured)
    return page.render(
        "purified/purified.html.jinja",
        live=True,
        name=name,
        facts=facts,
        canary=facts.canary,
        measured=measured,
        headlines=_headlines(facts, measured),
        galleries=figures.fitting(measured.cards, _PICTURES),
        histograms=figures.histograms(measured),
        spectrum=figures.spectrum(measured),
        patterns=patterns,
        times=times,
        class_wise=_class_wise(measured),
        looked=_looked(measured),
        unchanged=measured.rows - len(measured.psnr),
        skipped=tuple(islice(facts.skipped.items(), _LEFT_OUT)),
        small=page.SMALL,
        pattern_side=figures.PATTERN,
    )


def _headlines(facts: Told, measured: Measured) -> tuple[tuple[str, str], ...]:
    """What a reader looks for first."""
    return (
        ("purified images", f"{facts.purified:,}" + (f", {len(facts.skipped):,} left out" if facts.skipped else "")),
        ("likeness to the input, PSNR", f"{_median(measured.psnr)} dB" if len(measured.psnr) else "unchanged"),
        ("likeness to the input, SSIM", _median(measured.ssim, 2)),
        ("time", facts.time),
    )


def _median(values: NDArray[np.float64], digits: int = 1) -> str:
    return f"{float(np.median(values)):.{digits}f}"


def _looked(measured: Measured) -> str:
    """Of how many images the numbers are."""
    (low, high) = ("x".join(map(str, size)) for size in measured.sizes)
    which = "all" if measured.rows == measured.images else f"{measured.rows:,} of {measured.images:,}"
    spread = "" if measured.rows == measured.images else ", spread over the data set"
    sizes = low if low == high else f"{low} to {high}"
    return f"Measured on {which} images{spread}, of {sizes} pixels."


def _class_wise(measured: Measured) -> str:
    """Whether what was taken away is the same in all images of a class."""
    if measured.constancy is None or measured.by_chance is None:
        return ""
    share, chance = f"{measured.constancy:.1%}", f"{measured.by_chance:.1%}"
    words = f"These patterns make up {share} of what was taken away; if each image had changed for itself, {chance}"
    if measured.constancy > _HINT * measured.by_chance:
        return (
            f"{words}. That is far more than chance gives: the images of a class had something in common that was "
            "taken away, as a class-wise poison would be. (A common background or frame does the same.)"
        )
    return f"{words}. So nothing here points to a poison that is the same for all images of a class."
