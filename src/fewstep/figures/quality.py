"""How good samples are, against what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..results import METRICS
from ..solvers import get
from .axes import calls_axis, direct_labels, draw, new_figure, plain_log
from .families import draw_families
from .rows import Records, distinct, rows_of
from .style import GREY, line

__all__ = ["quality_against_cost", "quality_against_nfe"]


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
    rows = rows_of(records, metric=metric, gamma=None)  # where γ is swept, other samples are counted
    figure, axes = draw_families(rows, solvers, grid, METRICS[metric], (3.0, 2.7))
    for ax in axes:
        if floor is not None:
            ax.axhline(floor, color=GREY, linewidth=0.9, linestyle=":")
        if metric == "frechet_distance":  # the kernel distance may be negative
            plain_log(ax.yaxis)
        calls_axis(ax, (5, 10, 20, 50))
    for ax in axes:
        direct_labels(ax)
    return figure


def quality_against_cost(records: Records, solvers: Sequence[str]) -> Figure:
    """Fréchet distance against the seconds that its samples took, as PNDM compares, each solver on its own grid.

    Args:
        records: of an experiment that measures both, at the same numbers of calls.
        solvers: names.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = new_figure(figsize=(4.6, 3.0))
    ax = axes[0, 0]
    for name in solvers:
        own = {"solver": name, "grid": get(name).default_grid, "gamma": None}
        seconds = rows_of(records, metric="seconds", **own)
        distances = rows_of(records, metric="frechet_distance", **own)
        for nfe in distinct(seconds, "nfe"):
            mean = np.mean([row["value"] for row in seconds if row["nfe"] == nfe])
            for row in distances:
                if row["nfe"] == nfe:
                    row["seconds"] = mean
        draw(ax, [row for row in distances if "seconds" in row], "seconds", **line(name))
    ax.set(xscale="log", yscale="log", xlabel="seconds", ylabel=METRICS["frechet_distance"])
    direct_labels(ax)
    return figure
