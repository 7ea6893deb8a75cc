"""Plots as SVG in a page: drawn by matplotlib, colored by the page, the same bytes for the same numbers."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

from eclipse.errors import EclipseError, require

TEXT, MUTED, ACCENT, LINE = "#010203", "#010204", "#010205", "#010206"
"""Stand for the colors of the page, which are others by night."""
HUES = (
    *("#3b82c4", "#e07b39", "#3f9e5a", "#cc4b4b", "#8e6bbf", "#9a6a52", "#d16ba5", "#7f8c8d", "#a8a52a", "#2fa8b8"),
)
"""Told apart on white and on black."""

_COLORS = {TEXT: "var(--text)", MUTED: "var(--muted)", ACCENT: "var(--accent)", LINE: "var(--line)"}
_STYLE = {
    **{name: MUTED for name in ("axes.labelcolor", "xtick.color", "ytick.color", "xtick.labelcolor")},
    **{"text.color": TEXT, "axes.edgecolor": LINE, "grid.color": LINE, "axes.titlesize": 11, "font.size": 10},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.6},
    **{"axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9, "text.parse_math": False},
    **{"svg.fonttype": "none", "figure.constrained_layout.use": True},
}


def plot(draw: Callable[[Any], None], size: tuple[float, float], label: str) -> Any:
    """Draw a plot, for a template.

    Args:
        draw: puts axes on a ``matplotlib.figure.Figure``, whose pixels are points.
        size: width and height in inches.
        label: what it shows, for those who do not see it; of all plots of a page it must be the only one.

    Returns:
        The SVG; without matplotlib a note that says how to install it.
    """
    from markupsafe import Markup, escape

    try:
        matplotlib, figures = require("matplotlib", "report"), require("matplotlib.figure", "report")
    except EclipseError as error:
        return Markup('<p class="note">No plot: {}</p>').format(str(error))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": label}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font which measures text does not have
        figure, file = figures.Figure(figsize=size, dpi=72), io.StringIO()
        draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Markup(_inline(file.getvalue(), str(escape(label))))


def _inline(svg: str, label: str) -> str:
    """The picture as part of a page: without what is for a file of its own, and with names that are its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", label)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", body)
    for color, name in _COLORS.items():
        body = body.replace(color, name)
    return re.sub(
        r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        rf'<svg class="plot" \1 role="img" aria-label="{label}">',
        body,
        count=1,
    )
