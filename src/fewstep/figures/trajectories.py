"""Paths of samplers in the plane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..exact import GaussianMixture, reference
from ..grids import quadratic
from ..plan import Plan
from ..run import sample
from .axes import new_panels
from .style import BLACK, RED

__all__ = ["paths"]


def paths(plans: Mapping[str, Plan], problem: GaussianMixture, x: Tensor, edge: float) -> Figure:
    """Paths of samplers in the plane over the density of the data, and the exact paths (thick grey) below them.

    Dots are the states at which the network is called, circles the exact end points.

    Args:
        plans: by title.
        problem: of two dimensions.
        x: start states, float64, shape (B, 2).
        edge: the panels show coordinates up to this.
    """
    figure, axes = new_panels(len(plans), 3, 2.45, 0.1, sharex=True, sharey=True)
    side = torch.linspace(-edge, edge, 121, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    for ax, (title, plan) in zip(axes, plans.items(), strict=True):
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
    return figure
