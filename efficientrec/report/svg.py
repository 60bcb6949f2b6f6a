"""Pictures as SVG that stands inside a page: text is text, colours are the page's own, nothing refers elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from efficientrec.report.markup import Markup, element

INK, FAINT = "#0a0b01", "#0a0b02"
SERIES = tuple(f"#0a0b1{place}" for place in range(8))
"""Stand for the page's variables --ink, --faint and --series-0 …, which are others in the dark."""
READABLE = 3.7
"""A picture is never narrower than so much of the page's font for each inch; where that is too wide, it scrolls."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Of each series too: colour alone tells nobody who cannot see it."""
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {
    colour: f"var(--series-{place})" for place, colour in enumerate(SERIES)
}
_LONG = re.compile(r"(\.\d\d)\d+")  # hundredths of a point are enough, and make a page half as long
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "efficientrec",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
}


def picture(name: str, told: str, draw: Callable[[Axes], None], width: float = 8.4, height: float = 4.2) -> Markup:
    """An SVG of one pair of axes. name: unlike that of any other picture of the page. told: what it shows, for whoever
    cannot see it. width, height: inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(file.getvalue(), name, told, width)


def _inline(svg: str, name: str, told: str, width: float) -> Markup:
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"(\sid=\"|url\(#|href=\"#)", rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r' d="[^"]*"', lambda path: _LONG.sub(r"\1", path.group()), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    found = re.search(r'viewBox="([^"]+)"', svg)
    assert found is not None, svg[:200]
    style = f"min-width: {READABLE * width:.1f}rem"
    opening = f'<svg viewBox="{found.group(1)}" style="{style}" role="img" aria-labelledby="{name}-told">'
    return Markup(opening + element("title", told, id=f"{name}-told") + body)
