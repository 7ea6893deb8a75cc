"""The chart of a section: what each defense costs on clean data, against what it brings on poisons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eclipse.bench.result import NONE, visible
from eclipse.report.grid import figures
from eclipse.report.grid.figures import Section
from eclipse.report.plots import ACCENT, HUES, MUTED, TEXT, plot

_SIZE = (6.4, 5.4)
_LETTER, _LINE, _LONGEST = 5.3, 10.0, 24  # of a label: points a letter and a line, and letters
_POINT = 5.0  # that a mark takes, in points


@dataclass(frozen=True)
class Place:
    """A defense in the chart: points of accuracy lost on clean data, mean recovery."""

    name: str
    lost: float
    recovery: float
    labels: bool


def places(section: Section) -> list[Place]:
    """All defenses of which both are known, on all poisons that count."""
    found = list[Place]()
    for name in figures.ranked(section):
        mean, lost = figures.mean_recovery(section, name), figures.clean_drop(section, name)
        if name != NONE and mean and mean.complete and lost is not None:
            labels = figures.needs(section, name) == figures.LABELS
            found.append(Place(visible(name), 100 * lost, mean.value, labels))
    return found


def chart(section: Section) -> Any:
    """The chart; None where there is nothing to compare."""
    found = places(section)
    if len(found) < 2:
        return None

    def draw(figure: Any) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.09, 0.1, 0.88, 0.8))
        for labels, color, words in ((False, ACCENT, "without"), (True, HUES[1], "needs")):
            some = [place for place in found if place.labels == labels]
            xs, ys = [place.lost for place in some], [place.recovery for place in some]
            axes.scatter(xs, ys, s=30, color=color, label=f"{words} {figures.LABELS}", zorder=3)
        axes.margins(0.12)
        axes.autoscale_view()  # now, since labels go by it
        axes.set_xlabel("points of accuracy lost on clean data")
        axes.set_ylabel("mean recovery")
        figure.legend(loc="upper left", ncols=2)
        points = [tuple(axes.transData.transform((place.lost, place.recovery))) for place in found]
        bounds = axes.get_window_extent().bounds
        names = [place.name[:_LONGEST] for place in found]
        for name, place, offset in zip(names, found, offsets(names, points, bounds), strict=True):
            away = max(map(abs, offset)) > 2 * _LINE
            axes.annotate(
                name,
                (place.lost, place.recovery),
                xytext=offset,
                textcoords="offset points",
                fontsize=9,
                color=TEXT,
                va="center",
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5} if away else None,
            )

    return plot(draw, _SIZE, f"clean cost against recovery, victim {section.arch}, recipe {section.recipe}")


Box = tuple[float, float, float, float]


def offsets(
    names: Sequence[str], marks: Sequence[tuple[float, ...]], bounds: Sequence[float]
) -> list[tuple[float, float]]:
    """Where labels go, beside their marks, such that none lies on another or on a mark, as far as that can be.

    Args:
        names: the labels.
        marks: where they are, in points.
        bounds: left, bottom, width and height of what the labels must stay in.

    Returns:
        From each mark to the left end of its label, and to the middle of its height.
    """
    taken: list[Box] = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in marks]
    left, bottom, width, height = bounds
    found = list[tuple[float, float]]()
    for number, (name, (x, y)) in enumerate(zip(names, marks, strict=True)):
        others = taken[:number] + taken[number + 1 :]
        boxes = {offset: _box(name, x + offset[0], y + offset[1]) for offset in _candidates(name)}
        inside = {
            offset: box
            for offset, box in boxes.items()
            if left <= box[0] and bottom <= box[1] and box[2] <= left + width and box[3] <= bottom + height
        } or boxes
        best = min(inside, key=lambda offset: sum(_overlap(inside[offset], other) for other in others))
        found.append(best)
        taken.append(boxes[best])
    return found


def _candidates(name: str) -> Iterator[tuple[float, float]]:
    """Places of a label around its mark, the nearest first."""
    length = len(name) * _LETTER
    for distance in (7.0, 14.0, 22.0, 32.0, 44.0):
        for up in (0.0, distance, -distance):
            yield distance, up
            yield -distance - length, up
        yield -length / 2, distance + 3
        yield -length / 2, -distance - 3


def _box(name: str, x: float, y: float) -> Box:
    return x, y - _LINE / 2, x + len(name) * _LETTER, y + _LINE / 2


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
