"""The plots and pictures of a purification's page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eclipse.data.picture import Pixels, middle
from eclipse.data.pixels import around_gray
from eclipse.errors import escaped
from eclipse.report.page import enlarged, picture
from eclipse.report.plots import ACCENT, HUES, MUTED, TEXT, plot
from eclipse.report.purified.measure import FREQUENCIES, Measured, Pair

_THUMBNAIL, _CROP = 240, 144
PATTERN = 96  # side of the piece of a pattern that is shown
_TIMES = 10
_LONGEST_NAME = 28


@dataclass(frozen=True)
class View:
    """An image before and after, as the page shows it: addresses of pictures, and their size there."""

    before: str
    after: str
    width: int
    height: int


@dataclass(frozen=True)
class Card:
    """An image in the gallery.

    Attributes:
        name: its id.
        label: the number of its class.
        figures: what was measured of it, in words.
        whole: the image; a small copy of a large one.
        crop: a piece from the middle of a large image, pixel by pixel.
        difference: ten times what was taken away from the smaller of the two, around gray.
    """

    name: str
    label: int | None
    figures: str
    whole: View
    crop: View | None
    difference: str

    @property
    def length(self) -> int:
        """In the page, in bytes."""
        views = [self.whole, *([self.crop] if self.crop else [])]
        return len(self.difference) + sum(len(view.before) + len(view.after) for view in views)


def card(pair: Pair) -> Card:
    """What is kept of an image to be shown."""
    height, width = pair.before.shape[1:]
    figures = f"{width}x{height}, PSNR {pair.psnr:.1f} dB" if np.isfinite(pair.psnr) else f"{width}x{height}, unchanged"
    if size := enlarged(height, width):
        whole = View(picture(pair.before), picture(pair.after), *size)
        return Card(pair.name, pair.label, figures, whole, None, picture(_enlarged(pair.before, pair.after)))
    small, purified = _thumbnail(pair.before), _thumbnail(pair.after)
    before, after = middle(pair.before, _CROP), middle(pair.after, _CROP)
    difference = _jpeg(_enlarged(before, after))
    whole = View(_jpeg(small), _jpeg(purified), small.shape[2], small.shape[1])
    crop = View(picture(before), picture(after), before.shape[2], before.shape[1])
    return Card(pair.name, pair.label, figures, whole, crop, difference)


def _jpeg(image: Pixels) -> str:
    return picture(image, "JPEG", quality=88)


def _enlarged(before: Pixels, after: Pixels) -> Pixels:
    return around_gray(before.astype(np.float32) - after, _TIMES)


def _thumbnail(image: Pixels) -> Pixels:
    copy = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    copy.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(copy).transpose(2, 0, 1)


@dataclass(frozen=True)
class Pattern:
    """The mean of what was taken away from the images of a class."""

    name: str
    address: str
    width: int
    height: int


def patterns(measured: Measured) -> tuple[tuple[Pattern, ...], float]:
    """Those of all classes, equally enlarged, and how much."""
    found = {label: middle(mean, PATTERN) for label, mean in measured.patterns.items()}
    if not found:
        return (), 1.0
    largest = np.quantile(np.abs(np.stack(list(found.values()))), 0.995)
    times = float(f"{min(100 / max(largest, 1e-6), 1000):.1g}")
    shown = max(1, _CROP // max(next(iter(found.values())).shape[1:]))
    return tuple(
        Pattern(
            measured.name_of(label),
            picture(around_gray(mean, times)),
            mean.shape[2] * shown,
            mean.shape[1] * shown,
        )
        for label, mean in found.items()
    ), times


def histograms(measured: Measured) -> list[Any]:
    """How PSNR, SSIM and the mean change are spread over the images."""
    return [
        _histogram(measured.psnr, "PSNR in dB"),
        _histogram(measured.ssim, "SSIM"),
        _histogram(measured.change, "mean change in levels"),
    ]


def _histogram(values: NDArray[np.float64], what: str) -> Any:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        if len(values):
            axes.hist(values, bins=min(30, max(5, len(values) // 10)), color=ACCENT)
            axes.axvline(float(np.median(values)), color=TEXT, linewidth=1, linestyle="--")
        axes.set_xlabel(what)
        axes.set_ylabel("images")
        axes.grid(axis="x", visible=False)

    return plot(draw, (3.6, 2.2), f"{what}: how it is spread over the images")


def spectrum(measured: Measured) -> Any:
    """The power of what was taken away by frequency, in all and by class."""

    def draw(figure: Any) -> None:
        axes, bands = figure.add_subplot(), np.arange(FREQUENCIES)
        for hue, (label, power) in zip(HUES, measured.spectra.items(), strict=False):
            known = power > 0
            axes.plot(bands[known], power[known], color=hue, linewidth=1, label=short(measured.name_of(label)))
        known = measured.spectrum > 0
        axes.plot(bands[known], measured.spectrum[known], color=TEXT, linewidth=2, label="all images")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("cycles in 32 pixels: smooth on the left, fine on the right")
        axes.set_ylabel("power, levels²")
        axes.tick_params(which="minor", color=MUTED)
        if measured.spectra:
            figure.legend(loc="outside lower center", ncols=3)

    return plot(draw, (5.6, 4.0 if measured.spectra else 3.0), "spectrum of what was taken away")


def short(name: str) -> str:
    """A name that fits beside a plot."""
    name = escaped(name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def fitting(cards: dict[str, list[Any]], most: int) -> dict[str, Sequence[Card]]:
    """As many cards of each kind as fit into a number of bytes."""
    found, left = dict[str, Sequence[Card]](), most
    shown = {kind: kept for kind, kept in cards.items() if kept}
    for number, (kind, kept) in enumerate(shown.items()):
        room, chosen = left // (len(shown) - number), list[Card]()
        for one in kept:
            if sum(x.length for x in chosen) + one.length <= room:
                chosen.append(one)
        left -= sum(one.length for one in chosen)
        found[kind] = chosen
    return found
