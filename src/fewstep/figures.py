r"""Figures: one style, one colour and one marker per solver, and a function for each figure that is drawn from records.

A function that takes records draws on axes of its own and returns the Figure; the others take the axes to draw on.
Colours are of the Okabe–Ito palette, which readers with any common colour blindness can tell apart: one hue per family
of solvers, with line style and marker telling the members of a family.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from .solvers import get

__all__ = ["color", "direct_labels", "image_grid", "label", "line", "linestyle", "marker", "use_style"]

STYLE = {
    "figure.figsize": (7.0, 3.0),
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "image.cmap": "gray",
    "axes.prop_cycle": plt.cycler(
        color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    ),
    "svg.hashsalt": "fewstep",
}
"""Matplotlib settings of the book: 7 × 3 inches, readable at 700 pixels."""

BLACK, GREY, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, BROWN = (
    "#000000",
    "#7f7f7f",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8c5a2b",
)


class Mark(NamedTuple):
    """How a solver is drawn."""

    color: str
    marker: str
    linestyle: str = "-"


MARKS = {
    "ddpm": Mark(GREY, "o"),
    "ddpm-beta-tilde": Mark(GREY, "s", "--"),
    "ddim": Mark(BLACK, "o"),
    "ei-eps": Mark(BLACK, "D", "--"),
    "ei-score": Mark(BROWN, "D", "--"),
    "euler": Mark(BROWN, "o"),
    "rk4": Mark(RED, "s", "--"),
    "fon": Mark(RED, "^"),
    "pndm-s": Mark(BLUE, "o", "--"),
    "pndm-f": Mark(BLUE, "^"),
    "pndm-prk": Mark(BLUE, "s", ":"),
    "ipndm-1": Mark(SKY, "o", (0, (1, 2))),  # type: ignore[arg-type]
    "ipndm-2": Mark(SKY, "v", ":"),
    "ipndm-3": Mark(SKY, "s", "--"),
    "ipndm-4": Mark(SKY, "^"),
    "deis-tab0": Mark(GREEN, "o", (0, (1, 2))),  # type: ignore[arg-type]
    "deis-tab1": Mark(GREEN, "v", ":"),
    "deis-tab2": Mark(GREEN, "s", "--"),
    "deis-tab3": Mark(GREEN, "^"),
    "deis-rhoab0": Mark(PURPLE, "o", (0, (1, 2))),  # type: ignore[arg-type]
    "deis-rhoab1": Mark(PURPLE, "v", ":"),
    "deis-rhoab2": Mark(PURPLE, "s", "--"),
    "deis-rhoab3": Mark(PURPLE, "^"),
    "deis-rhork-midpoint": Mark(RED, "v", ":"),
    "deis-rhork-heun": Mark(RED, "o"),
    "deis-rhork-kutta3": Mark(RED, "D", "--"),
    "deis-rhork-rk4": Mark(RED, "P", "-."),
    "edm-heun": Mark(RED, "*", (0, (1, 2))),  # type: ignore[arg-type]
    "ge": Mark(ORANGE, "o"),
}
"""Colour, marker and line style of every solver, in all figures."""


def use_style() -> None:
    """Set :data:`STYLE` for all figures drawn from now on."""
    plt.rcParams.update(STYLE)


def color(name: str) -> str:
    """The colour of a solver.

    Raises:
        UserError: if there is no solver of this name.
    """
    return _mark(name).color


def marker(name: str) -> str:
    """The marker of a solver; raises as :func:`color`."""
    return _mark(name).marker


def linestyle(name: str) -> str:
    """The line style of a solver; raises as :func:`color`."""
    return _mark(name).linestyle


def label(name: str) -> str:
    """The solver's name as a reader knows it; raises as :func:`color`."""
    return get(name).title


def line(name: str) -> dict[str, object]:
    """``color``, ``marker``, ``linestyle`` and ``label`` of a solver, as keywords of ``plot``; raises as :func:`color`."""
    return {**_mark(name)._asdict(), "label": label(name)}


def _mark(name: str) -> Mark:
    get(name)
    return MARKS.get(name, Mark(GREY, "x"))


def image_grid(ax: Axes | None, images: Tensor, columns: int | None = None, gap: int = 1) -> Axes:
    """Show images side by side, row by row, with no axes around them.

    Args:
        ax: where; None makes a figure of its own.
        images: (N, 1, H, W) or (N, 3, H, W), in [-1, 1]; values outside are clamped.
        columns: images per row; by default all in one row up to 16.
        gap: white pixels between images.

    Returns:
        The axes.
    """
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()
    n, height, width, channels = pixels.shape
    columns = min(n, 16) if columns is None else columns
    rows = -(-n // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for i in range(n):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = pixels[i]
    if ax is None:
        _, ax = plt.subplots(figsize=(7.0, 7.0 * canvas.shape[0] / canvas.shape[1]))
    # Pixels stay pixels: 8 x 8 images would otherwise be blurred into something nobody sampled.
    ax.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def direct_labels(ax: Axes, *, pad: float = 4.0, fontsize: float = 7.5) -> None:
    """Write every line's label at its right end, in its colour, instead of a legend; labels that would meet are moved apart.

    Call it last: the limits of the axes must be final. Lines without a label are passed over.

    Args:
        ax: the axes.
        pad: distance from the line's end, in points.
        fontsize: of the labels, in points.
    """
    figure = ax.figure
    figure.canvas.draw()  # fixes the limits and the layout
    ends = []
    for artist in ax.get_lines():
        text = str(artist.get_label())
        xy = np.asarray(artist.get_xydata(), dtype=float)
        xy = xy[np.isfinite(xy).all(axis=1)]
        if text.startswith("_") or not len(xy):
            continue
        x, y = xy[np.argmax(xy[:, 0])]
        y = float(np.clip(y, *sorted(ax.get_ylim())))
        ends.append((*ax.transData.transform((x, y)), x, y, text, artist.get_color()))
    ends.sort(key=lambda end: end[1])
    height = 1.15 * fontsize * figure.dpi / 72
    places = _apart([end[1] for end in ends], height)
    right = max((end[0] for end in ends), default=0.0)
    for (px, py, x, y, text, tint), place in zip(ends, places, strict=True):
        ax.annotate(
            text,
            (x, y),
            xytext=((right - px) * 72 / figure.dpi + pad, (place - py) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=fontsize,
            color=0.75 * np.array(to_rgb(tint)),  # darker than the line: thin strokes need more contrast
            annotation_clip=False,
        )


def _apart(places: list[float], height: float) -> list[float]:
    """Sorted positions moved as little as possible (least squares) until neighbours are ``height`` apart."""
    # With y_i = place_i - i·height the constraint is that y increases: isotonic regression, by pooling violators.
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(places):
        pools.append((place - i * height, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    flat = [value for value, count in pools for _ in range(count)]
    return [value + i * height for i, value in enumerate(flat)]


def new(rows: int = 1, columns: int = 1, **keywords: object) -> tuple[Figure, np.ndarray]:
    """A figure in the book's style with an array of axes, shape (rows, columns)."""
    use_style()
    return plt.subplots(rows, columns, squeeze=False, **keywords)  # type: ignore[call-overload]
