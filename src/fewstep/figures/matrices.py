"""Plans as pictures: their canonical tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..errors import UserError
from ..plan import Plan
from .axes import new_figure, new_panels
from .style import BLACK

__all__ = ["canonical_difference", "canonical_matrices", "canonical_matrix"]

SCALE = "weight / largest of its column"
"""What the colours stand for."""


def canonical_matrix(plan: Plan, ax: Axes | None = None) -> Axes:
    r"""A plan's canonical table C: how much of each network output is in each state.

    Each column is divided by its largest absolute value, since the weights of early calls are larger by orders of
    magnitude; red is positive, blue negative.

    Args:
        plan: any plan of at most a few dozen calls.
        ax: where; None makes a figure of its own, with a colour bar.

    Returns:
        The axes.
    """
    alone = ax is None
    if ax is None:
        ax = new_figure(figsize=(3.6, 3.0))[1][0, 0]
    drawn = _show(ax, _scaled(_tables(plan)[0]))
    ax.set_xlabel("output of call")
    ax.set_ylabel("state")
    count = range(0, plan.nfe, max(1, plan.nfe // 5))
    ax.set_xticks(list(count))
    ax.set_yticks(list(count), [str(n + 1) for n in count])
    if alone:
        ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label=SCALE)
    return ax


def canonical_matrices(plans: Mapping[str, Plan], columns: int = 5) -> Figure:
    """Canonical tables side by side, as :func:`canonical_matrix` draws them, without their axes.

    The noises of a stochastic plan stand to the right of its outputs, behind a line.

    Args:
        plans: by title.
        columns: pictures in a row.
    """
    figure, axes = new_panels(len(plans), columns, 1.55, 0.35)
    for ax, (title, plan) in zip(axes, plans.items(), strict=True):
        C, S = map(_scaled, _tables(plan))
        drawn = _show(ax, np.hstack([C, S]))
        if plan.stochastic:
            ax.axvline(plan.nfe - 0.5, color=BLACK, linewidth=0.8)
        ax.set(xticks=[], yticks=[], aspect="auto", box_aspect=1.0)
        ax.set_title(title, fontsize=7.5)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.4, aspect=40, pad=0.02)
    bar.set_label(SCALE)
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
    C, D = _tables(p)[0], _tables(q)[0]
    scale = np.maximum(np.abs(C).max(axis=0), np.abs(D).max(axis=0))
    figure, axes = new_figure(1, 3, figsize=(7.0, 2.5))
    titles = (first[0], second[0], "first − second")
    for ax, table, title in zip(axes[0], (C, D, C - D), titles, strict=True):
        _show(ax, table / scale)
        ax.set(title=title, xlabel="output of call", xticks=[], yticks=[])
    axes[0, 0].set_ylabel("state")
    return figure


def _show(ax: Axes, table: np.ndarray) -> AxesImage:
    """Weights from −1 (blue) to 1 (red); where there is none, the page."""
    ax.grid(False)
    return ax.imshow(np.ma.masked_equal(table, 0.0), cmap="RdBu_r", norm=Normalize(-1, 1), interpolation="nearest")


def _scaled(table: np.ndarray) -> np.ndarray:
    """Each column divided by its largest absolute value."""
    largest = np.abs(table).max(axis=0)
    return table / np.maximum(largest, np.finfo(float).tiny)


def _tables(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the outputs, and of the noises, in the states at a known time, in x̄ = x/α.

    These states are the ones at which the network is called, and the result. In x the first weights of a VP process
    carry a tiny α; in x̄ every step of DDIM keeps its weight to the end.
    """
    known = [*plan.inputs, len(plan.states)]
    alpha = np.full(len(plan.states) + 1, np.nan)
    alpha[known] = plan.alpha
    canonical = plan.canonical()
    rows = np.isfinite(alpha[1:])
    scale = alpha[1:][rows, None]
    return canonical.C[rows] / scale, canonical.S[rows] / scale
