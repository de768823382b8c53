"""What the figures share: a figure in the book's style, its axes, lines with their intervals, labels at their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .rows import distinct
from .style import use_style

__all__ = [
    "calls_axis",
    "darker",
    "direct_labels",
    "draw",
    "legend_below",
    "new_figure",
    "new_panels",
    "plain_log",
]


def new_figure(rows: int = 1, columns: int = 1, **keywords: Any) -> tuple[Figure, np.ndarray]:
    """A figure in the book's style with an array of axes, shape (rows, columns)."""
    use_style()
    return plt.subplots(rows, columns, squeeze=False, **keywords)


def new_panels(
    count: int, columns: int, height: float, more: float = 0.0, **keywords: Any
) -> tuple[Figure, list[Axes]]:
    """A figure, 7 inches wide, of ``count`` panels in rows of so many.

    Args:
        count: of the panels.
        columns: panels in a row.
        height: of a row, in inches.
        more: inches for what stands above or below them.
        keywords: of Matplotlib's ``subplots``.
    """
    rows = -(-count // columns)
    figure, axes = new_figure(rows, columns, figsize=(7.0, more + height * rows), **keywords)
    for ax in axes.flat[count:]:
        ax.remove()
    return figure, list(axes.flat[:count])


def calls_axis(ax: Axes, ticks: Sequence[int]) -> None:
    """A logarithmic axis of network calls, with plain numbers at the counts that were measured."""
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("network calls")


def plain_log(axis: Axis) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10, 20 …, for ranges of a decade or two."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def draw(ax: Axes, rows: list[dict[str, Any]], x: str, interval: bool = True, **style: Any) -> None:
    """A line of value against column ``x``, with its 95 % interval where there is one and it is asked for.

    Of several values at one place, such as those of several seeds, the mean is drawn.
    """
    rows = sorted(rows, key=lambda row: row[x])
    at = distinct(rows, x)
    (drawn,) = ax.plot(at, [np.mean([row["value"] for row in rows if row[x] == place]) for place in at], **style)
    if interval and all(row["low"] is not None for row in rows):
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        ax.fill_between(at, low, high, color=drawn.get_color(), alpha=0.12, linewidth=0)


def legend_below(figure: Figure, columns: int | None = None) -> None:
    """One legend for all panels, below them, in so many columns; by default in one row."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns or len(found))


def direct_labels(ax: Axes) -> None:
    """Write every line's label at its right end, in its colour, instead of a legend; moved apart where they would meet.

    Call it last: the limits of the axes must be final. Lines without a label are passed over.
    """
    figure, fontsize, pad = ax.figure, 7.5, 4.0  # in points
    figure.canvas.draw()  # fixes the limits and the layout
    ends = []
    for artist in ax.get_lines():
        text = str(artist.get_label())
        xy = np.asarray(artist.get_xydata(), dtype=float)
        xy = xy[np.isfinite(xy).all(axis=1)]
        if text.startswith("_") or not len(xy):
            continue
        low, high = sorted(ax.get_ylim())
        xy[:, 1] = np.clip(xy[:, 1], low, high)
        last = np.argmax(ax.transData.transform(xy)[:, 0])  # on the page: an axis may be inverted
        ends.append((*ax.transData.transform(xy[last]), *xy[last], text, artist.get_color()))
    ends.sort(key=lambda end: end[1])
    height = 1.15 * fontsize * figure.dpi / 72
    places = _apart([end[1] for end in ends], height, ax.bbox.y0)
    right = max((end[0] for end in ends), default=0.0)
    for (px, py, x, y, text, tint), place in zip(ends, places, strict=True):
        ax.annotate(
            text,
            (x, y),
            xytext=((right - px) * 72 / figure.dpi + pad, (place - py) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=fontsize,
            color=darker(tint),
            annotation_clip=False,
        )


def darker(color: Any) -> np.ndarray:
    """The colour of letters that belong to a line of this colour: thin strokes need more contrast."""
    return 0.75 * np.array(to_rgb(color))


def _apart(places: list[float], height: float, bottom: float = -np.inf) -> list[float]:
    """Sorted positions moved as little as possible (least squares), to be ``height`` apart and above ``bottom``."""
    # With y_i = place_i - i·height the constraint is that y increases: isotonic regression, by pooling violators.
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(places):
        pools.append((place - i * height, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    flat = [max(value, bottom) for value, count in pools for _ in range(count)]
    return [value + i * height for i, value in enumerate(flat)]
