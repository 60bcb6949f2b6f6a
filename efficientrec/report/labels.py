"""Names beside points, none on top of another."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

GAP = 4.0
"""Points between a mark and its label."""
MARK = 3.5
"""Radius of an ordinary mark."""
FONT = 8.5
LETTER, LINE = 0.56, 1.25  # of the font's size; wide enough for the usual fonts


def write_beside(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    radii: Sequence[float] | None = None,
    most: int = 40,
    upright: bool = False,
) -> None:
    """Labels the points, the first ones first: right, left, above or below, where there is room; what finds none is
    left out, and so is what comes after `most`. radii: of the marks, in points. upright: above or below first.
    Everything else must be drawn before."""
    axes.autoscale_view()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    dot = figure.dpi / 72
    taken: list[tuple[float, float, float, float]] = []
    for place, (point, label) in enumerate(zip(points, labels, strict=True)):
        if len(taken) == most:
            return
        if not label:
            continue
        x, y = (float(at) for at in axes.transData.transform(point))
        away = GAP + (MARK if radii is None else radii[place])
        wide, high = LETTER * FONT * len(label) * dot, LINE * FONT * dot
        beside = ((away, 0.0, "left"), (-away, 0.0, "right"))
        over = ((0.0, away + FONT / 2, "center"), (0.0, -away - FONT / 2, "center"))
        for dx, dy, side in (*over, *beside) if upright else (*beside, *over):
            left = x + dx * dot - {"left": 0.0, "right": wide, "center": wide / 2}[side]
            bottom = y + dy * dot - high / 2
            box = (left, bottom, left + wide, bottom + high)
            inside = axes.bbox.x0 <= box[0] and box[2] <= axes.bbox.x1 and axes.bbox.y0 <= box[1] <= axes.bbox.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(label, point, (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=FONT)
                break


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
