"""One part of a sampler changed at a time, on both known problems and on the network."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results import METRICS
from ..solvers import SOLVERS
from .axes import calls_axis, direct_labels, draw, legend_below, new_figure, plain_log
from .rows import Records, distinct, nothing_measured, rows_of
from .style import label, line

__all__ = ["PROBLEMS", "gamma_sweep", "ingredients", "schedules", "time_grids"]

PROBLEMS = {
    "mixture": "Gaussian mixture:\nerror",
    "ideal": "ideal denoiser of the digits:\nerror",
    "network": "the network:\nFréchet distance",
}
"""What an experiment on both known problems and the network measures, in words."""


def _three(records: Records, height: float = 3.0) -> tuple[Figure, dict[str, tuple[Axes, list[dict[str, Any]]]]]:
    """A panel for each of :data:`PROBLEMS` that was measured, with its rows.

    Raises:
        UserError: if none was.
    """
    rows = [row for row in rows_of(records) if row["metric"] in ("error", "frechet_distance")]
    found = [name for name in PROBLEMS if any(row["problem"] == name for row in rows)]
    if not found:
        raise nothing_measured("error or frechet_distance")
    figure, axes = new_figure(1, len(found), figsize=(7.0, height))
    panels = {}
    for ax, name in zip(axes[0], found, strict=True):
        ax.set_title(PROBLEMS[name])
        panels[name] = ax, [row for row in rows if row["problem"] == name]
    return figure, panels


def gamma_sweep(records: Records) -> Figure:
    """Error and Fréchet distance against γ of gradient estimation (Permenter & Yuan, Eq. 9), a line for each budget.

    Args:
        records: of the experiment ``gamma_sweep``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, panels = _three(records)
    for ax, rows in panels.values():
        for nfe in sorted(distinct(rows, "nfe")):
            chosen = [row for row in rows if row["nfe"] == nfe]
            draw(ax, chosen, "gamma", False, marker="o", label=f"{nfe} calls")
        ax.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":")
        ax.set_xlabel("γ (1 is DDIM)")
        plain_log(ax.yaxis)
    for ax, _ in panels.values():
        direct_labels(ax)
    return figure


def schedules(records: Records) -> Figure:
    """Fréchet distance of DDIM (γ = 1) and gradient estimation (γ = 2) on several schedules of noise levels.

    Args:
        records: of the experiment ``noise_schedules``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = rows_of(records, metric="frechet_distance")
    gammas = sorted(distinct(rows, "gamma"))
    figure, axes = new_figure(1, len(gammas), sharey=True)
    for ax, gamma in zip(axes[0], gammas, strict=True):
        for grid, shape in zip(distinct(rows, "grid"), "osv^DP*X" * 2, strict=False):
            chosen = [row for row in rows if row["grid"] == grid and row["gamma"] == gamma]
            draw(ax, chosen, "nfe", False, marker=shape, label=grid)
        ax.set_title("DDIM (γ = 1)" if gamma == 1 else f"gradient estimation, γ = {gamma:g}")
        plain_log(ax.yaxis)
        calls_axis(ax, sorted(distinct(rows, "nfe")))
    axes[0, 0].set_ylabel(METRICS["frechet_distance"])
    legend_below(figure, 4)
    return figure


def time_grids(records: Records) -> Figure:
    """Error and Fréchet distance of each solver on each time grid, at one number of calls.

    Args:
        records: of the experiment ``time_grids``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, panels = _three(records, height=3.6)
    grids = distinct([row for _, rows in panels.values() for row in rows], "grid")[::-1]
    for place, (ax, rows) in enumerate(panels.values()):
        for name in (name for name in SOLVERS if name in distinct(rows, "solver")):
            chosen = [row for row in rows if row["solver"] == name]
            at = [grids.index(row["grid"]) for row in chosen]
            ax.plot([row["value"] for row in chosen], at, **{**line(name), "linestyle": "none"})
        plain_log(ax.xaxis)
        ax.set_yticks(range(len(grids)), [""] * len(grids) if place else grids)
    legend_below(figure)
    return figure


def ingredients(records: Records) -> Figure:
    """Error and Fréchet distance as the ingredients of DEIS are added one by one (DEIS, §3 and Table 2).

    Args:
        records: of the experiment ``ingredients``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, panels = _three(records, height=3.6)
    shapes = {"uniform": "-", "quadratic": "--", "rho7": ":"}
    for name, (ax, rows) in panels.items():
        for solver in (name for name in SOLVERS if name in distinct(rows, "solver")):
            for grid in (grid for grid in shapes if any(r["grid"] == grid and r["solver"] == solver for r in rows)):
                style = {**line(solver), "linestyle": shapes[grid], "label": f"{label(solver)}, {grid}"}
                chosen = [row for row in rows if row["solver"] == solver and row["grid"] == grid]
                draw(ax, chosen, "nfe", False, **style)
        plain_log(ax.yaxis) if name == "network" else ax.set_yscale("log")
        calls_axis(ax, sorted(distinct(rows, "budget")))
    legend_below(figure, 3)
    return figure
