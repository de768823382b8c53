r"""Figures: one style, one colour and one marker per solver, and a function for each figure that is drawn from records.

A function that takes records draws on axes of its own and returns the Figure; the others take the axes to draw on.
Colours are of the Okabe–Ito palette, which readers with any common colour blindness can tell apart: one hue per family
of solvers, with line style and marker telling the members of a family.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from ..cost import amdahl, linear
from ..dark import show_both
from ..errors import UserError
from ..exact import GaussianMixture, reference
from ..grids import quadratic
from ..plan import Plan
from ..results import METRICS, Record, Recorder
from ..run import sample
from ..solvers import SOLVERS, get

__all__ = [
    "canonical_difference",
    "canonical_matrices",
    "canonical_matrix",
    "cells_drawn",
    "color",
    "convergence",
    "cost",
    "denoiser_error",
    "direct_labels",
    "error_against_nfe",
    "extrapolation",
    "gamma_sweep",
    "guidance",
    "image_grid",
    "ingredients",
    "inpainting",
    "inverse",
    "label",
    "likelihood",
    "line",
    "linestyle",
    "marker",
    "own_grid",
    "parametrisation",
    "paths",
    "quality_against_cost",
    "quality_against_nfe",
    "schedules",
    "time_grids",
    "use_style",
]

STYLE = rc_params_from_file(Path(__file__).with_name("book.mplstyle"), use_default_template=False)
"""Matplotlib settings of the book, from its style file."""

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
    "deis-lambdaab1": Mark(ORANGE, "1", ":"),
    "deis-lambdaab2": Mark(ORANGE, "2", "--"),
    "deis-lambdaab3": Mark(ORANGE, "3"),
    "deis-rhork-midpoint": Mark(RED, "v", ":"),
    "deis-rhork-heun": Mark(RED, "o"),
    "deis-rhork-kutta3": Mark(RED, "D", "--"),
    "deis-rhork-heun3": Mark(RED, "X", (0, (4, 1, 1, 1))),  # type: ignore[arg-type]
    "deis-rhork-rk4": Mark(RED, "P", "-."),
    "edm-heun": Mark(RED, "*", (0, (1, 2))),  # type: ignore[arg-type]
    "ge": Mark(ORANGE, "o"),
    "dpm-solver-2": Mark(BLUE, "v", "--"),
    "dpm-solver-3": Mark(BLUE, "D"),
    "dpm-solver-fast": Mark(BLUE, "P", ":"),
    "dpm-solver-2m": Mark(SKY, "v", "--"),
    "dpm-solver-3m": Mark(SKY, "D", ":"),
    "dpmpp-2s": Mark(ORANGE, "v", "--"),
    "dpmpp-3s": Mark(ORANGE, "D"),
    "dpmpp-2m": Mark(GREEN, "v", "--"),
    "dpmpp-3m": Mark(GREEN, "D"),
    "unipc-1": Mark(PURPLE, "h", ":"),
    "unipc-2": Mark(PURPLE, "d", "--"),
    "unipc-3": Mark(PURPLE, "D"),
    "unipc-4": Mark(PURPLE, "P", "-."),
    "dpm2": Mark(RED, "<"),
    "dpm2-ancestral": Mark(RED, "<", ":"),
    "dpmpp-2s-ancestral": Mark(ORANGE, "v", ":"),
    "dpmpp-sde": Mark(ORANGE, "s", "--"),
    "dpmpp-2m-sde": Mark(GREEN, "p", "--"),
    "dpmpp-3m-sde": Mark(GREEN, "P", ":"),
    "plms": Mark(BLUE, "h", "-."),
    "sde-dpm-solver-2m": Mark(SKY, "s", ":"),
    "euler-maruyama": Mark(BROWN, "s", ":"),
    "ancestral": Mark(GREY, "v", ":"),
    "reverse-diffusion": Mark(GREY, "D", "--"),
    "reverse-diffusion-ode": Mark(BROWN, "v", "-."),
    "quasi-taylor": Mark(SKY, "h", "-."),
    "ito-taylor": Mark(SKY, "p", "--"),
    "analytic-ddpm": Mark(PURPLE, "s", ":"),
    "analytic-ddim": Mark(PURPLE, "*", "-."),
}
"""Colour, marker and line style of every solver, in all figures."""


def use_style() -> None:
    """Set :data:`STYLE` for all figures drawn from now on; a notebook shows each with its dark version."""
    show_both()
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


def line(name: str) -> dict[str, Any]:
    """``color``, ``marker``, ``linestyle`` and ``label`` of a solver, as keywords of ``plot``."""
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
    show_both()
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
    """Write every line's label at its right end, in its colour, instead of a legend; moved apart where they would meet.

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
            color=0.75 * np.array(to_rgb(tint)),  # darker than the line: thin strokes need more contrast
            annotation_clip=False,
        )


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


# --- figures drawn from records ------------------------------------------------------------------------------------

Records = Iterable[Record | Recorder]
"""Records as :func:`fewstep.results.load` returns them, or the recorder that a notebook has just filled."""

FAMILIES = {
    "first order": ("ddim", "euler", "ei-score", "reverse-diffusion-ode", "quasi-taylor", "ge"),
    "pseudo numerical": ("ddim", "pndm-s", "pndm-f", "pndm-prk", "plms", "ipndm-2", "ipndm-3", "ipndm-4", "fon"),
    "DEIS, multistep": (
        "ddim",
        "deis-tab1",
        "deis-tab2",
        "deis-tab3",
        "deis-rhoab1",
        "deis-rhoab2",
        "deis-rhoab3",
    ),
    "Runge–Kutta": (
        "ddim",
        "deis-rhork-midpoint",
        "deis-rhork-heun",
        "deis-rhork-kutta3",
        "deis-rhork-heun3",
        "deis-rhork-rk4",
        "rk4",
        "dpm2",
    ),
    "DPM-Solver": (
        "ddim",
        "dpm-solver-2",
        "dpm-solver-3",
        "dpm-solver-fast",
        "dpm-solver-2m",
        "dpm-solver-3m",
        "dpmpp-2s",
        "dpmpp-3s",
        "dpmpp-2m",
        "dpmpp-3m",
    ),
    "UniPC": ("ddim", "unipc-1", "unipc-2", "unipc-3", "unipc-4"),
    "DEIS in λ": ("ddim", "deis-rhoab3", "deis-lambdaab1", "deis-lambdaab2", "deis-lambdaab3"),
    "SDE, first order": (
        "ddim",
        "ddpm",
        "ddpm-beta-tilde",
        "euler-maruyama",
        "reverse-diffusion",
        "ito-taylor",
    ),
    "SDE, exponential": (
        "ddim",
        "sde-dpm-solver-2m",
        "dpm2-ancestral",
        "dpmpp-2s-ancestral",
        "dpmpp-sde",
        "dpmpp-2m-sde",
        "dpmpp-3m-sde",
    ),
}
"""The panels of a figure of all solvers; DDIM is in each, to compare by."""

PROBLEMS = {
    "mixture": "Gaussian mixture:\nerror",
    "ideal": "ideal denoiser of the digits:\nerror",
    "network": "the network:\nFréchet distance",
}
"""What an experiment on both known problems and the network measures, in words."""


_LOOKED_AT: ContextVar[set[str] | None] = ContextVar("_LOOKED_AT", default=None)


class _Row(dict[str, Any]):
    """A measurement as a flat row; notes its record's cell when its value is looked at."""

    cell = ""

    def __getitem__(self, column: str) -> Any:
        if column == "value" and (cells := _LOOKED_AT.get()) is not None:
            cells.add(self.cell)
        return super().__getitem__(column)


@contextmanager
def cells_drawn() -> Iterator[set[str]]:
    """Collects the cells of the records whose values the functions of this module draw, as long as it is open."""
    cells: set[str] = set()
    token = _LOOKED_AT.set(cells)
    try:
        yield cells
    finally:
        _LOOKED_AT.reset(token)


def _rows(records: Records, **where: Any) -> list[dict[str, Any]]:
    """The measurements as flat rows, those whose columns have these values.

    Raises:
        UserError: if there are none.
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        for measurement in record.measurements:
            row = _Row({**measurement.model_dump(exclude={"settings"}), **measurement.settings})
            row.cell = record.provenance.cell if isinstance(record, Record) else ""
            rows.append(row)
    rows = [row for row in rows if all(row.get(column) == value for column, value in where.items())]
    if not rows:
        wanted = " ".join(f"{column}={value}" for column, value in where.items())
        raise UserError(f"no record measures {wanted or 'anything'}; `make experiments` makes the records")
    return rows


def _values(rows: Iterable[dict[str, Any]], column: str) -> list[Any]:
    """The distinct values of a column, in their order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def own_grid(solver: str, measured: Sequence[str]) -> str:
    """The grid that a solver's authors prefer, or the first of those measured where that is not among them."""
    own = get(solver).default_grid
    return own if own in measured else measured[0]


def _draw(ax: Axes, rows: list[dict[str, Any]], x: str, interval: bool = True, **style: Any) -> None:
    """A line of value against column ``x``, with its 95 % interval where there is one and it is asked for.

    Of several values at one place, such as those of several seeds, the mean is drawn.
    """
    rows = sorted(rows, key=lambda row: row[x])
    at = _values(rows, x)
    (drawn,) = ax.plot(at, [np.mean([row["value"] for row in rows if row[x] == place]) for place in at], **style)
    if interval and all(row["low"] is not None for row in rows):
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        ax.fill_between(at, low, high, color=drawn.get_color(), alpha=0.12, linewidth=0)


def _calls(ax: Axes, ticks: Sequence[int]) -> None:
    """A logarithmic axis of network calls, with plain numbers at the counts that were measured."""
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("network calls")


def _plain_log(axis: Axis) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5, 10, 20 …, for ranges of a decade or two."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _new(rows: int = 1, columns: int = 1, **keywords: Any) -> tuple[Figure, np.ndarray]:
    """A figure in the book's style with an array of axes, shape (rows, columns)."""
    use_style()
    return plt.subplots(rows, columns, squeeze=False, **keywords)


def _panels(solvers: Sequence[str] | None, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Which solvers go into which panel: those asked for into one, else each family that was measured into its own.

    A solver of no family, such as one that a reader has added, goes into a panel of such.
    """
    measured = _values(rows, "solver")
    if solvers is not None:
        return {"": [name for name in solvers if name in measured]}
    panels = {title: [name for name in names if name in measured] for title, names in FAMILIES.items()}
    panels["others"] = [name for name in measured if not any(name in names for names in FAMILIES.values())]
    if set(measured) == {"ddim"}:
        return {"": ["ddim"]}
    return {title: names for title, names in panels.items() if set(names) - {"ddim"}}


def quality_against_nfe(
    records: Records,
    solvers: Sequence[str] | None = None,
    grid: str | None = None,
    metric: str = "frechet_distance",
    floor: float | None = None,
) -> Figure:
    """A metric of the network's samples against the number of network calls (experiment ``frechet``).

    Args:
        records: of the experiment.
        solvers: names, drawn into one panel; by default all that were measured, a panel for each family.
        grid: the grid; by default each solver's own.
        metric: which metric.
        floor: a level to draw, such as the distance between two halves of the data (experiment ``baseline``).

    The 95 % intervals are drawn in a panel of one solver only: all solvers start from the same noise, so intervals side
    by side would hide how much better the differences are known.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric=metric, gamma=None)  # where γ is swept, other samples are counted
    panels = _panels(solvers, rows)
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure, axes = _new(down, across, figsize=(7.0, 3.0 if down == 1 else 2.7 * down), sharey=True)
    for ax, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for name in names:
            wanted = [row for row in rows if row["solver"] == name]
            own = grid or own_grid(name, _values(wanted, "grid"))
            _draw(ax, [row for row in wanted if row["grid"] == own], "nfe", len(names) == 1, **line(name))
        if floor is not None:
            ax.axhline(floor, color=GREY, linewidth=0.9, linestyle=":")
        ax.set_title(title)
        if metric == "frechet_distance":  # the kernel distance may be negative
            _plain_log(ax.yaxis)
        _calls(ax, (5, 10, 20, 50))
    for ax in axes[:, 0]:
        ax.set_ylabel(METRICS[metric])
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax in axes.flat[: len(panels)]:
        direct_labels(ax)
    return figure


def quality_against_cost(records: Records, solvers: Sequence[str]) -> Figure:
    """Fréchet distance against the seconds that its samples took, as PNDM compares, each solver on its own grid.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = _new(figsize=(4.6, 3.0))
    ax = axes[0, 0]
    for name in solvers:
        own = {"solver": name, "grid": get(name).default_grid, "gamma": None}
        seconds = _rows(records, metric="seconds", **own)
        distances = _rows(records, metric="frechet_distance", **own)
        for row in distances:
            row["seconds"] = np.mean([other["value"] for other in seconds if other["nfe"] == row["nfe"]])
        _draw(ax, distances, "seconds", **line(name))
    ax.set(xscale="log", yscale="log", xlabel="seconds", ylabel=METRICS["frechet_distance"])
    direct_labels(ax)
    return figure


def error_against_nfe(
    records: Records, solvers: Sequence[str] | None = None, grid: str | None = None, process: str = "vp"
) -> Figure:
    """Error to the exact solution against the number of calls (experiment ``exact_error``), with slopes to compare by.

    Args:
        records: of the experiment.
        solvers: names, drawn into one panel; by default all that were measured, a panel for each family.
        grid: the grid; by default each solver's own.
        process: the name of the process.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric="error", process=process)
    panels = _panels(solvers, rows)
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure, axes = _new(down, across, figsize=(7.0, 3.4 if down == 1 else 2.9 * down), sharey=True)
    for ax, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for name in names:
            wanted = [row for row in rows if row["solver"] == name]
            own = grid or own_grid(name, _values(wanted, "grid"))
            _draw(ax, [row for row in wanted if row["grid"] == own], "nfe", **line(name))
        ax.set_title(title)
        _calls(ax, (5, 10, 20, 40, 80, 160, 320, 640))
    drawn = [row["value"] for row in rows if row["solver"] in {name for names in panels.values() for name in names}]
    for ax in axes[:, 0]:
        ax.set_ylabel("RMS error")
        # Unstable methods reach 10³ at five calls; the axis stays where errors mean something.
        ax.set(yscale="log", ylim=(max(1e-9, 0.5 * min(drawn)), min(10.0, 2.0 * max(drawn))))
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax in axes.flat[: len(panels)]:
        _slopes(ax, (1, 2, 4))
        direct_labels(ax)
    return figure


def _slopes(ax: Axes, orders: Sequence[int]) -> None:
    """Short grey lines of error ∝ NFE^−p from one point, in the lower left of a log–log panel."""
    low, high = ax.get_ylim()
    top = low * (high / low) ** 0.32
    x = np.array([5.0, 10.0])
    for order in orders:
        y = top * (x / x[0]) ** -order
        ax.plot(x, y, color="#888888", linewidth=0.9)
        ax.annotate(
            f"{order}",
            (x[1], y[1]),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=7,
            color="#666666",
            va="center",
        )
    ax.annotate(
        "order", (x[0], top), xytext=(0, 2), textcoords="offset points", fontsize=7, color="#666666", va="bottom"
    )


def canonical_matrix(plan: Plan, ax: Axes | None = None, title: str | None = None) -> Axes:
    r"""A plan's canonical table C: how much of each network output is in each state.

    Each column is divided by its largest absolute value, since the weights of early calls are larger by orders of
    magnitude; red is positive, blue negative.

    Args:
        plan: any plan of at most a few dozen calls.
        ax: where; None makes a figure of its own, with a colour bar.
        title: of the axes.

    Returns:
        The axes.
    """
    C = _outputs(plan)
    C = C / np.abs(C).max(axis=0)
    alone = ax is None
    if ax is None:
        ax = _new(figsize=(3.6, 3.0))[1][0, 0]
    drawn = ax.imshow(C, cmap="RdBu_r", norm=Normalize(-1, 1), interpolation="nearest")
    ax.grid(False)
    ax.set_xlabel("output of call")
    ax.set_ylabel("state")
    if title:
        ax.set_title(title)
    count = range(0, plan.nfe, max(1, plan.nfe // 5))
    ax.set_xticks(list(count))
    ax.set_yticks(list(count), [str(n + 1) for n in count])
    if alone:
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label="weight / largest of its column")
    return ax


def canonical_matrices(plans: Mapping[str, Plan], columns: int = 5) -> Figure:
    """Canonical tables side by side, as :func:`canonical_matrix` draws them, without their axes.

    The noises of a stochastic plan stand to the right of its outputs, behind a line.

    Args:
        plans: by title.
        columns: pictures in a row.
    """
    rows = -(-len(plans) // columns)
    figure, axes = _new(rows, columns, figsize=(7.0, 0.35 + 1.55 * rows))
    for ax, (title, plan) in zip(axes.flat, plans.items(), strict=False):
        canonical_matrix(plan, ax)
        if plan.stochastic:
            known = _known(plan)[1:]
            alpha = dict(zip([*plan.inputs, len(plan.states)], plan.alpha, strict=True))
            scale = np.array([alpha[int(m) + 1] for m in np.flatnonzero(known)])
            S = plan.canonical().S[known] / scale[:, None]
            S = S / np.maximum(np.abs(S).max(axis=0), np.finfo(float).tiny)
            both = np.hstack([ax.images[0].get_array(), S])
            ax.images[0].remove()
            ax.imshow(both, cmap="RdBu_r", norm=Normalize(-1, 1), interpolation="nearest", aspect="auto")
            ax.axvline(plan.nfe - 0.5, color=BLACK, linewidth=0.8)
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[], aspect="auto", box_aspect=1.0)
        ax.set_title(title, fontsize=7.5)
    for ax in axes.flat[len(plans) :]:
        ax.remove()
    colors = plt.cm.ScalarMappable(Normalize(-1, 1), "RdBu_r")
    bar = figure.colorbar(colors, ax=list(axes.flat[: len(plans)]), location="bottom", shrink=0.4, aspect=40, pad=0.02)
    bar.set_label("weight / largest of its column")
    return figure


def paths(plans: Mapping[str, Plan], problem: GaussianMixture, x: Tensor, edge: float, columns: int = 3) -> Figure:
    """Paths of samplers in the plane over the density of the data, and the exact paths (thick grey) below them.

    Dots are the states at which the network is called, circles the exact end points.

    Args:
        plans: by title.
        problem: of two dimensions.
        x: start states, float64, shape (B, 2).
        edge: the panels show coordinates up to this.
        columns: panels in a row.
    """
    rows = -(-len(plans) // columns)
    figure, axes = _new(rows, columns, figsize=(7.0, 0.1 + 2.45 * rows), sharex=True, sharey=True)
    side = torch.linspace(-edge, edge, 121, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    for ax, (title, plan) in zip(axes.flat, plans.items(), strict=False):
        start, end = plan.times[[0, -1]]
        density = problem.log_density(points, torch.tensor(end)).exp().view(121, 121).T
        levels = float(density.max()) * np.array([0.02, 0.1, 0.3, 0.6, 1.0])
        ax.contourf(side, side, density, levels=levels, cmap="Blues", vmin=0, vmax=2 * levels[-1])
        times = quadratic(problem.process, 40, t_start=start, t_end=end)
        exact = torch.cat([x[None], reference(problem, problem.process, x, start, end, times=times[1:])])
        ax.plot(*exact.permute(2, 0, 1), color="#999999", linewidth=3.0, alpha=0.6, solid_capstyle="round")
        states: list[Tensor] = []
        sample(plan, problem, x, dtype=torch.float64, hook=lambda _, state, t, to=states: to.append(state.clone()))  # type: ignore[misc]
        found = torch.stack(states)
        ax.plot(*found.permute(2, 0, 1), color=BLACK, linewidth=1.0, marker=".", markersize=2.5)
        ax.plot(*exact[-1].T, color=RED, marker="o", markersize=5, markerfacecolor="none", linestyle="none")
        ax.plot(*found[-1].T, color=BLACK, marker="o", markersize=2.5, linestyle="none")
        ax.set(title=title, xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
        ax.grid(False)
    for ax in axes.flat[len(plans) :]:
        ax.remove()
    return figure


def canonical_difference(first: tuple[str, Plan], second: tuple[str, Plan]) -> Figure:
    """Two canonical tables C of as many calls, and their difference.

    Each column is divided by its largest absolute value in the two tables; red is positive, blue negative.

    Args:
        first: title and plan.
        second: title and plan; subtracted.

    Raises:
        UserError: if the plans differ in the number of their calls.
    """
    (_, p), (_, q) = first, second
    if p.nfe != q.nfe:
        raise UserError(f"tables of as many calls are needed, got {p.nfe} and {q.nfe}")
    C, D = _outputs(p), _outputs(q)
    scale = np.maximum(np.abs(C).max(axis=0), np.abs(D).max(axis=0))
    figure, axes = _new(1, 3, figsize=(7.0, 2.5))
    titles = (first[0], second[0], "first − second")
    for ax, table, title in zip(axes[0], (C, D, C - D), titles, strict=True):
        ax.imshow(table / scale, cmap="RdBu_r", norm=Normalize(-1, 1), interpolation="nearest")
        ax.set(title=title, xlabel="output of call", xticks=[], yticks=[])
        ax.grid(False)
    axes[0, 0].set_ylabel("state")
    return figure


def _outputs(plan: Plan) -> np.ndarray:
    """The weights of the outputs in the states at which the network is called and in the result, in x̄ = x/α.

    In x the first weights of a VP process carry a tiny α; in x̄ every step of DDIM keeps its weight to the end.
    """
    alpha = np.full(len(plan.states) + 1, np.nan)
    alpha[[*plan.inputs, len(plan.states)]] = plan.alpha
    known = np.isfinite(alpha[1:])
    weights: np.ndarray = plan.canonical().C[known] / alpha[1:][known, None]
    return weights


def _known(plan: Plan) -> np.ndarray:
    """Which states are at a known time: those at which the network is called, and the result."""
    known = np.zeros(len(plan.states) + 1, dtype=bool)
    known[[*plan.inputs, len(plan.states)]] = True
    return known


GRID_COLORS = {"uniform": BLUE, "quadratic": GREEN, "rho7": ORANGE}
"""Colours of the time grids, in figures that compare them."""


def convergence(records: Records, process: str = "vp", columns: int = 5) -> Figure:
    """Error to the exact solution against calls, a panel for each solver, with the slope that theory gives.

    A panel has a line for each grid and the fitted slope in its colour, the slope of theory dashed below the lines, and
    DDIM on its first grid in light grey.

    Args:
        records: of the experiment ``exact_error``.
        process: the name of a process with fitted orders.
        columns: panels in a row.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric="error", process=process)
    orders = _rows(records, metric="order", process=process)
    names = [name for name in SOLVERS if any(row["solver"] == name for row in orders)]
    down = -(-len(names) // columns)
    figure, axes = _new(down, columns, figsize=(7.0, 0.4 + 1.3 * down), sharex=True, sharey=True)
    grids = _values(orders, "grid")
    tints = {
        grid: GRID_COLORS.get(grid, color) for grid, color in zip(grids, [RED, PURPLE, SKY, BROWN] * 9, strict=False)
    }
    ddim = [row for row in rows if row["solver"] == "ddim" and row["grid"] == grids[0]]
    place_of = {name: place for place, name in enumerate(names)}
    for ax, name in zip(axes.flat, names, strict=False):
        _draw(ax, ddim, "nfe", color="#cccccc", linewidth=1.0)
        fitted = {row["grid"]: row for row in orders if row["solver"] == name}
        for place, (grid, fit) in enumerate(fitted.items()):
            chosen = [row for row in rows if row["solver"] == name and row["grid"] == grid]
            _draw(ax, chosen, "nfe", color=tints[grid], linewidth=1.0, marker=".", markersize=3)
            where = {"xycoords": "axes fraction", "fontsize": 6.5, "color": 0.75 * np.array(to_rgb(tints[grid]))}
            ax.annotate(f"{fit['value']:.1f}", (0.03 + 0.17 * place, 0.05), **where)
        theory = next(iter(fitted.values()))["theory"]
        best = [row for row in rows if row["solver"] == name and row["nfe"] >= next(iter(fitted.values()))["fit_from"]]
        first = min(row["nfe"] for row in best)
        level = 0.25 * min(row["value"] for row in best if row["nfe"] == first)
        x = np.array([first, max(row["nfe"] for row in best)])
        ax.plot(x, level * (x / first) ** -float(theory), color=BLACK, linewidth=0.9, linestyle="--")
        ax.annotate(f"{theory}", (x[0], level), xytext=(-2, -1), textcoords="offset points", fontsize=6.5, ha="right")
        ax.set_title(label(name), fontsize=7.5)
        ax.set(xscale="log", yscale="log", ylim=(1e-11, 10.0))
        ax.tick_params(labelsize=6.5)
        ax.set_xticks([10, 100], ["10", "100"])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_yticks([1e-9, 1e-6, 1e-3, 1])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.tick_params(labelbottom=place_of[name] >= len(names) - columns)
    for ax in axes.flat[len(names) :]:
        ax.remove()
    handles = [plt.Line2D([], [], color=tints[grid], marker=".", label=grid) for grid in grids]
    handles += [plt.Line2D([], [], color=BLACK, linestyle="--", label="theory")]
    handles += [plt.Line2D([], [], color="#cccccc", label=f"DDIM, {grids[0]}")]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel("network calls", fontsize=8)
    figure.supylabel("RMS error", fontsize=8)
    return figure


def parametrisation(records: Records, step: int = 20, times: Sequence[int] = (900, 500, 100)) -> Figure:
    """Error of a step with the score frozen and with ε frozen, against time and against step size (DEIS, Fig. 3).

    Args:
        records: one cell of the experiment ``parametrisation``.
        step: the step size of the first panel.
        times: the times of the second panel.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records)
    figure, axes = _new(1, 2)
    left, right = axes[0]
    names = {"score_error": ("ei-score", "score frozen"), "eps_error": ("ei-eps", "ε frozen")}
    for metric, (solver, text) in names.items():
        style = {**line(solver), "label": text}
        chosen = [row for row in rows if row["metric"] == metric]
        _draw(left, [row for row in chosen if row["step"] == step], "t", **style)
        for t, alpha in zip(times, (1.0, 0.65, 0.35), strict=False):
            more = {"label": f"t = {t}", "alpha": alpha}
            _draw(right, [row for row in chosen if row["t"] == t], "step", **{**style, **more})
    left.set(yscale="log", xlabel="time t at which the step begins", ylabel="RMS error of one step")
    left.set_title(f"a step of {step} labels")
    right.set(xscale="log", yscale="log", xlabel="step size in labels", title="steps from three times")
    left.legend()
    direct_labels(right)
    return figure


def extrapolation(records: Records, grid: str = "uniform") -> Figure:
    """Relative error of extrapolating ε by polynomials of degree 0 to 3, in t and in ρ (DEIS, Fig. 4).

    Args:
        records: one cell of the experiment ``extrapolation``.
        grid: the name of the grid.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric="extrapolation_error", grid=grid)
    figure, axes = _new(1, 2, sharey=True)
    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, 4))
    for ax, variable, text in zip(axes[0], ("t", "rho"), ("t", "ρ"), strict=True):
        for degree in _values(rows, "degree"):
            chosen = [row for row in rows if row["degree"] == degree and row["variable"] == variable]
            # The time axis runs from noise to data, as the sampler does: the lines end, and are labelled, at the data.
            _draw(ax, chosen, "t", color=shades[degree], marker="ovs^"[degree], label=f"degree {degree}")
        ax.set(yscale="log", xlabel="time t", title=f"polynomial in {text}")
    axes[0, 0].set_ylabel("relative error of ε")
    axes[0, 0].invert_xaxis()
    axes[0, 1].invert_xaxis()
    for ax in axes[0]:
        direct_labels(ax)
    return figure


def _three(records: Records) -> tuple[Figure, dict[str, tuple[Axes, list[dict[str, Any]]]]]:
    """A panel for each of :data:`PROBLEMS` that was measured, with its rows."""
    rows = [row for row in _rows(records) if row["metric"] in ("error", "frechet_distance")]
    found = [name for name in PROBLEMS if any(row["problem"] == name for row in rows)]
    figure, axes = _new(1, len(found), figsize=(7.0, 3.0))
    panels = {}
    for ax, name in zip(axes[0], found, strict=True):
        ax.set_title(PROBLEMS[name])
        panels[name] = ax, [row for row in rows if row["problem"] == name]
    return figure, panels


def gamma_sweep(records: Records) -> Figure:
    """Error and Fréchet distance against γ of gradient estimation, a line for each number of calls.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, panels = _three(records)
    for ax, rows in panels.values():
        for nfe in sorted(_values(rows, "nfe")):
            chosen = [row for row in rows if row["nfe"] == nfe]
            _draw(ax, chosen, "gamma", False, marker="o", label=f"{nfe} calls")
        ax.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":")
        ax.set_xlabel("γ (1 is DDIM)")
        _plain_log(ax.yaxis)
    for ax, _ in panels.values():
        direct_labels(ax)
    return figure


def schedules(records: Records) -> Figure:
    """Fréchet distance of DDIM (γ = 1) and gradient estimation (γ = 2) on several schedules of noise levels.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric="frechet_distance")
    gammas = sorted(_values(rows, "gamma"))
    figure, axes = _new(1, len(gammas), sharey=True)
    for ax, gamma in zip(axes[0], gammas, strict=True):
        for grid, shape in zip(_values(rows, "grid"), "osv^DP*X" * 2, strict=False):
            chosen = [row for row in rows if row["grid"] == grid and row["gamma"] == gamma]
            _draw(ax, chosen, "nfe", False, marker=shape, label=grid)
        ax.set_title("DDIM (γ = 1)" if gamma == 1 else f"gradient estimation, γ = {gamma:g}")
        _plain_log(ax.yaxis)
        _calls(ax, sorted(_values(rows, "nfe")))
    axes[0, 0].set_ylabel(METRICS["frechet_distance"])
    for ax in axes[0]:
        direct_labels(ax)
    return figure


def time_grids(records: Records) -> Figure:
    """Error and Fréchet distance of each solver on each time grid, at one number of calls.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, panels = _three(records)
    figure.set_size_inches(7.0, 3.6)
    grids: list[str] = []
    for ax, rows in panels.values():
        grids = grids or [*reversed(_values(rows, "grid"))]
        for name in (name for name in SOLVERS if name in _values(rows, "solver")):
            chosen = [row for row in rows if row["solver"] == name]
            at = [grids.index(row["grid"]) for row in chosen]
            ax.plot([row["value"] for row in chosen], at, **{**line(name), "linestyle": "none"})
        _plain_log(ax.xaxis)
        ax.set_yticks(range(len(grids)), grids if ax is next(iter(panels.values()))[0] else [""] * len(grids))
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def ingredients(records: Records) -> Figure:
    """Error and Fréchet distance as the ingredients of DEIS are added one by one.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, panels = _three(records)
    figure.set_size_inches(7.0, 3.6)
    shapes = {"uniform": "-", "quadratic": "--", "rho7": ":"}
    for name, (ax, rows) in panels.items():
        for solver in (name for name in SOLVERS if name in _values(rows, "solver")):
            for grid in (grid for grid in shapes if any(r["grid"] == grid and r["solver"] == solver for r in rows)):
                style = {**line(solver), "linestyle": shapes[grid], "label": f"{label(solver)}, {grid}"}
                chosen = [row for row in rows if row["solver"] == solver and row["grid"] == grid]
                _draw(ax, chosen, "nfe", False, **style)
        _plain_log(ax.yaxis) if name == "network" else ax.set_yscale("log")
        _calls(ax, sorted(_values(rows, "budget")))
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def denoiser_error(records: Records, pixels: int = 64) -> Figure:
    """Relative error of the learned denoiser and distance to the data, along sampling trajectories.

    Args:
        records: of the experiment ``denoiser_error``.
        pixels: the number of elements n of a sample; the distance is compared with √n σ.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records)
    figure, axes = _new(1, 2)
    left, right = axes[0]
    names = {
        ("network", "ideal"): ("network against\nideal denoiser", RED, "o"),
        ("network", "projection"): ("network against\nprojection (η)", BLUE, "s"),
        ("ideal", "projection"): ("ideal denoiser against\nprojection (η)", BLACK, "^"),
    }
    for (of, against), (text, tint, shape) in names.items():
        chosen = [r for r in rows if r["metric"] == "relative_error" and (r["of"], r["against"]) == (of, against)]
        if chosen:
            _draw(left, chosen, "sigma", label=text, color=tint, marker=shape, markersize=3)
    left.set(xscale="log", xlabel="σ (= ρ)", ylabel="relative error")
    distances = [row for row in rows if row["metric"] == "distance" and row["sigma"] > 0]
    _draw(right, distances, "sigma", color=BLACK, marker="o", markersize=3, label="distance to the data")
    sigma = np.array(sorted(row["sigma"] for row in distances))
    right.plot(sigma, np.sqrt(pixels) * sigma, color=GREY, linestyle="--", label="√n σ")
    right.set(xscale="log", yscale="log", xlabel="σ (= ρ)", ylabel="distance")
    left.legend()
    right.legend()
    return figure


def cost(records: Records, images: int = 1_000_000, most: int = 64) -> Figure:
    """Time against the number of images and against the number of workers, continued by the laws fitted to it.

    Args:
        records: of the experiment ``cost``.
        images: up to which number the line of the left panel goes.
        most: up to how many workers the line of the right panel goes.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = _new(1, 2)
    left, right = axes[0]
    rows = sorted(_rows(records, metric="seconds", of="draw", clock="wall"), key=lambda row: row["samples"])
    n, seconds = np.array([row["samples"] for row in rows]), [row["value"] for row in rows]
    intercept, slope = linear(n, seconds)
    span = np.geomspace(n[0], images, 50)
    left.plot(span, intercept + slope * span, color=GREY, linestyle="--", label="fitted line, continued")
    left.plot(n, seconds, color=BLACK, marker="o", linestyle="none", label="measured, one worker")
    left.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds")
    left.legend()

    rows = sorted(_rows(records, metric="seconds", of="workers", clock="wall"), key=lambda row: row["workers"])
    times = {row["workers"]: row["value"] for row in rows}
    share = amdahl(times)
    workers = np.geomspace(1, most, 50)
    right.plot(workers, share.seconds(1) / workers, color=GREY, linestyle=":", label="no serial part")
    right.plot(workers, share.seconds(workers), color=GREY, linestyle="--", label="$T_s + T_p/w$, continued")
    right.plot([*times], [*times.values()], color=BLACK, marker="o", linestyle="none", label="measured")
    right.set(ylabel=f"seconds for {rows[0]['samples']:,} images")
    _calls(right, [2**k for k in range(most.bit_length())])
    right.set(xlabel="workers", yscale="log")
    right.legend()
    return figure


def likelihood(records: Records) -> Figure:
    """Mean error of the log-density in bits per dimension against network calls, a panel for each problem.

    Plans in the colours of their solvers; RK45 is black, solid in t and dashed in ρ. The dotted line is at 0.01 bits.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric="likelihood_error", of=None)
    titles = {"mixture": "mixture", "digits": "digits, ideal denoiser", "network": "digits, network"}
    problems = sorted(_values(rows, "problem"), key=list(titles).index)
    figure, axes = _new(1, len(problems), sharey=True, figsize=(7.0, 3.0))
    for ax, problem in zip(axes[0], problems, strict=True):
        here = [row for row in rows if row["problem"] == problem]
        for solver, grid in dict.fromkeys((row["solver"], row["grid"]) for row in here):
            adaptive = {"color": "k", "marker": ".", "linestyle": "-" if grid == "in t" else "--"}
            style = {**adaptive, "label": f"RK45 {grid.replace('rho', 'ρ')}"} if solver == "rk45" else line(solver)
            _draw(ax, [row for row in here if (row["solver"], row["grid"]) == (solver, grid)], "nfe", **style)
        ax.axhline(0.01, color="k", linestyle=":", linewidth=1)
        ax.set(title=titles[problem], yscale="log", ylim=(1e-6, 10))
        _calls(ax, (10, 30, 100, 300))
    axes[0, 0].set_ylabel("error, bits per dimension")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


METHODS = {
    "replacement": ("replacement", BLUE, "o"),
    "resampled": ("replacement, resampled", GREEN, "s"),
    "projected": ("projected denoiser", ORANGE, "^"),
    "posterior": ("posterior gradient", RED, "D"),
}
"""How inpainting uses the known pixels: in words, colour and marker."""


def inpainting(records: Records) -> Figure:
    """Error on the known and the unknown pixels, diversity and accuracy against the fraction that is known.

    A line for each method at its largest number of calls, a thinner one at fewer.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = _new(1, 4, figsize=(9.0, 2.8))
    panels: dict[str, dict[str, Any]] = {
        "error, known pixels": {"metric": "pixel_error", "region": "known"},
        "error, unknown pixels": {"metric": "pixel_error", "region": "unknown"},
        "diversity, unknown pixels": {"metric": "diversity"},
        "accuracy": {"metric": "accuracy"},
    }
    for ax, (title, where) in zip(axes[0], panels.items(), strict=True):
        rows = _rows(records, **where)
        for name, (text, tint, shape) in METHODS.items():
            chosen = [row for row in rows if row["method"] == name]
            calls = sorted({row["nfe"] for row in chosen})
            for nfe in calls:
                strong = nfe == calls[-1]
                style = {"marker": shape, "color": tint, "label": f"{text}, {nfe} calls"}
                thin = {} if strong else {"linestyle": ":", "linewidth": 1.0, "markerfacecolor": "none"}
                _draw(ax, [row for row in chosen if row["nfe"] == nfe], "known", strong, **style, **thin)
        ax.set(title=title, xlabel="fraction known", ylim=(0, None))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def guidance(records: Records) -> Figure:
    """Accuracy, Fréchet distance of a class, diversity and excess against the guidance weight, a line for each solver.

    A row of panels for each kind of guidance, at its largest budget of calls. Dotted is the data themselves.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = [row for row in _rows(records) if "class" not in row]
    kinds = _values(_rows(records, metric="excess"), "guidance")
    panels = {
        "accuracy": "accuracy",
        "frechet_distance": "Fréchet distance of a class",
        "diversity": "diversity",
        "excess": "excess over [−1, 1]",
    }
    figure, axes = _new(len(kinds), len(panels), figsize=(9.0, 2.6 * len(kinds)), sharex=True, sharey="col")
    for kind, line_of_axes in zip(kinds, axes, strict=True):
        of_kind = [row for row in rows if row.get("guidance") == kind]
        most = max(row["budget"] for row in of_kind)
        weights = sorted(_values(of_kind, "weight"))
        for ax, metric in zip(line_of_axes, panels, strict=True):
            chosen = [row for row in of_kind if row["metric"] == metric and row["budget"] == most]
            for name in (name for name in SOLVERS if name in _values(chosen, "solver")):
                _draw(ax, [row for row in chosen if row["solver"] == name], "weight", False, **line(name))
            for value in {row["value"] for row in rows if row["metric"] == metric and row.get("of") == "data"}:
                ax.axhline(value, color=GREY, linewidth=0.8, linestyle=":")
            # Weights are doubled from one to the next, but begin at 0.
            ax.set_xscale("symlog", linthresh=1.0, base=2)
            ax.set_xticks(weights, [f"{weight:g}" for weight in weights])
            ax.xaxis.set_minor_locator(NullLocator())
        line_of_axes[0].set_ylabel(f"{kind} guidance")
        _plain_log(line_of_axes[1].yaxis)
        _plain_log(line_of_axes[3].yaxis)
    for top, bottom, title in zip(axes[0], axes[-1], panels.values(), strict=True):
        top.set_title(title)
        bottom.set_xlabel("guidance weight")
    for ax in axes[:, 3]:
        direct_labels(ax)
    return figure


def inverse(records: Records) -> Figure:
    """Recovery error against the number of measurements and against the noise level, a line for each denoiser.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = _rows(records, metric="pixel_error")
    problems = {"sensing": ("measurements", "measurements of 64 pixels"), "denoising": ("sigma", "σ of the noise")}
    found = [name for name in problems if name in _values(rows, "problem")]
    figure, axes = _new(1, len(found), figsize=(7.0, 4.0))
    styles = {
        "network": ("network", BLUE, "o"),
        "ideal": ("ideal denoiser", BLACK, "s"),
        "others": ("ideal denoiser of the other digits", GREY, "^"),
        "linear": ("best linear estimate", ORANGE, "x"),
    }
    for ax, name in zip(axes[0], found, strict=True):
        column, text = problems[name]
        for by, (title, tint, shape) in styles.items():
            chosen = [row for row in rows if row["problem"] == name and row["by"] == by]
            kinds = sorted({(row["nfe"] or 0, row.get("repeats", 1)) for row in chosen})
            for (nfe, repeats), dash in zip(kinds, ("-", "--", ":"), strict=False):
                calls = f", {nfe} call{'s' if nfe > 1 else ''}" if nfe else ""
                again = f", steps taken {repeats} times" if repeats > 1 else ""
                same = [row for row in chosen if ((row["nfe"] or 0), row.get("repeats", 1)) == (nfe, repeats)]
                style: dict[str, Any] = {
                    "label": title + calls + again,
                    "color": tint,
                    "marker": shape,
                    "linestyle": dash,
                }
                _draw(ax, same, column, **style)
        ax.set(xlabel=text, ylim=(0, None))
    axes[0, 0].set_ylabel(METRICS["pixel_error"])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
