"""Plans as pictures: their canonical tables."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..errors import UserError
from ..plan import Plan
from .axes import new_figure
from .style import BLACK

__all__ = ["canonical_difference", "canonical_matrices", "canonical_matrix"]


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
        ax = new_figure(figsize=(3.6, 3.0))[1][0, 0]
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
    figure, axes = new_figure(rows, columns, figsize=(7.0, 0.35 + 1.55 * rows))
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
    figure, axes = new_figure(1, 3, figsize=(7.0, 2.5))
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
