"""Families of solvers, a panel for each, and the grid that a solver is shown on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..solvers import get
from .axes import draw, new_panels
from .rows import distinct, nothing_measured
from .style import line

__all__ = ["FAMILIES", "draw_families", "own_grid"]

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


def draw_families(
    rows: list[dict[str, Any]],
    solvers: Sequence[str] | None,
    grid: str | None,
    ylabel: str,
    heights: tuple[float, float],
) -> tuple[Figure, list[Axes]]:
    """Value against network calls, those solvers in one panel, or a panel for each family that was measured.

    The 95 % intervals are drawn in a panel of one solver only: all solvers start from the same noise, so intervals side
    by side would hide how much better the differences are known.

    Args:
        rows: what was measured.
        solvers: names, drawn into one panel; None: all that were measured.
        grid: the grid; None: each solver's own.
        ylabel: of the panels on the left.
        heights: of a figure of one row of panels, and of a row of several, in inches.

    Raises:
        UserError: if none of the solvers was measured.
    """
    panels = _panels(solvers, rows)
    columns = min(2, len(panels))
    height = heights[0] if len(panels) <= columns else heights[1]
    figure, axes = new_panels(len(panels), columns, height, sharey=True)
    for ax, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            wanted = [row for row in rows if row["solver"] == name]
            own = grid or own_grid(name, distinct(wanted, "grid"))
            draw(ax, [row for row in wanted if row["grid"] == own], "nfe", len(names) == 1, **line(name))
        ax.set_title(title)
    for ax in axes[::columns]:
        ax.set_ylabel(ylabel)
    return figure, axes


def _panels(solvers: Sequence[str] | None, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Which solvers go into which panel.

    A solver of no family, such as one that a reader has added, goes into a panel of such. A panel that shows only what
    others have shown is left out.
    """
    measured = distinct(rows, "solver")
    if solvers is not None:
        if not set(solvers) & set(measured):
            raise nothing_measured(" or ".join(solvers))
        return {"": [name for name in solvers if name in measured]}
    if set(measured) == {"ddim"}:
        return {"": ["ddim"]}
    families = {title: [name for name in names if name in measured] for title, names in FAMILIES.items()}
    families["others"] = [name for name in measured if not any(name in names for names in FAMILIES.values())]
    panels, shown = {}, {"ddim"}
    for title, names in families.items():
        if set(names) - shown:
            panels[title] = names
            shown |= set(names)
    return panels


def own_grid(solver: str, measured: Sequence[str]) -> str:
    """The grid that a solver's authors prefer, or the first of those measured where that is not among them."""
    own = get(solver).default_grid
    return own if own in measured else measured[0]
