"""Errors to the exact solution of a problem that has one, and the orders of convergence that they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ..solvers import SOLVERS
from .axes import calls_axis, darker, direct_labels, draw, new_panels
from .families import draw_families
from .rows import Records, distinct, rows_of
from .style import BLACK, BROWN, GRID_COLORS, PURPLE, RED, SKY, label

__all__ = ["convergence", "error_against_nfe"]


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
    rows = rows_of(records, metric="error", process=process)
    drawn = [row["value"] for row in rows if solvers is None or row["solver"] in solvers]
    figure, axes = draw_families(rows, solvers, grid, "RMS error", (3.4, 2.9))
    for ax in axes:
        # Unstable methods reach 10³ at five calls; the axis stays where errors mean something.
        ax.set(yscale="log", ylim=(max(1e-9, 0.5 * min(drawn)), min(10.0, 2.0 * max(drawn))))
        calls_axis(ax, (5, 10, 20, 40, 80, 160, 320, 640))
    for ax in axes:
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


def convergence(records: Records, process: str = "vp") -> Figure:
    """Error to the exact solution against calls, a panel for each solver, with the slope that theory gives.

    A panel has a line for each grid and the fitted slope in its colour, the slope of theory dashed below the lines, and
    DDIM on its first grid in light grey.

    Args:
        records: of the experiment ``exact_error``.
        process: the name of a process with fitted orders.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = rows_of(records, metric="error", process=process)
    orders = rows_of(records, metric="order", process=process)
    names = [name for name in SOLVERS if any(row["solver"] == name for row in orders)]
    columns = 5
    figure, axes = new_panels(len(names), columns, 1.3, 0.4, sharex=True, sharey=True)
    grids = distinct(orders, "grid")
    tints = {
        grid: GRID_COLORS.get(grid, color) for grid, color in zip(grids, [RED, PURPLE, SKY, BROWN] * 9, strict=False)
    }
    ddim = [row for row in rows if row["solver"] == "ddim" and row["grid"] == grids[0]]
    for ax, name in zip(axes, names, strict=True):
        draw(ax, ddim, "nfe", color="#cccccc", linewidth=1.0)
        measured = [row for row in rows if row["solver"] == name]
        fitted = {row["grid"]: row for row in orders if row["solver"] == name}
        for place, (grid, fit) in enumerate(fitted.items()):
            chosen = [row for row in measured if row["grid"] == grid]
            draw(ax, chosen, "nfe", color=tints[grid], linewidth=1.0, marker=".", markersize=3)
            corner = (0.03 + 0.17 * place, 0.05)
            color = darker(tints[grid])
            ax.annotate(f"{fit['value']:.1f}", corner, xycoords="axes fraction", fontsize=6.5, color=color)
        _theory(ax, measured, next(iter(fitted.values())))
        ax.set_title(label(name), fontsize=7.5)
        ax.set(xscale="log", yscale="log", ylim=(1e-11, 10.0))
        ax.tick_params(labelsize=6.5)
        ax.set_xticks([10, 100], ["10", "100"])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_yticks([1e-9, 1e-6, 1e-3, 1])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.tick_params(labelbottom=name in names[-columns:])
    handles = [plt.Line2D([], [], color=tints[grid], marker=".", label=grid) for grid in grids]
    handles += [plt.Line2D([], [], color=BLACK, linestyle="--", label="theory")]
    handles += [plt.Line2D([], [], color="#cccccc", label=f"DDIM, {grids[0]}")]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.supxlabel("network calls", fontsize=8)
    figure.supylabel("RMS error", fontsize=8)
    return figure


def _theory(ax: Axes, rows: list[dict[str, Any]], fit: dict[str, Any]) -> None:
    """The slope of theory, dashed, below a solver's errors at the counts of calls that its order was fitted to."""
    rows = [row for row in rows if row["nfe"] >= fit["fit_from"]]
    first = min(row["nfe"] for row in rows)
    level = 0.25 * min(row["value"] for row in rows if row["nfe"] == first)
    x = np.array([first, max(row["nfe"] for row in rows)])
    ax.plot(x, level * (x / first) ** -float(fit["theory"]), color=BLACK, linewidth=0.9, linestyle="--")
    start = (x[0], level)
    ax.annotate(f"{fit['theory']}", start, xytext=(-2, -1), textcoords="offset points", fontsize=6.5, ha="right")
