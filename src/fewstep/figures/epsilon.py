"""What becomes of ε within a step: the errors of freezing it, of extrapolating it and of learning it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .axes import direct_labels, draw, new_figure
from .rows import Records, distinct, rows_of
from .style import BLACK, BLUE, GREY, RED, line

__all__ = ["denoiser_error", "extrapolation", "parametrisation"]


def parametrisation(records: Records, step: int = 20, times: Sequence[int] = (900, 500, 100)) -> Figure:
    """Error of a step with the score frozen and with ε frozen, against time and against step size (DEIS, Fig. 3).

    Args:
        records: one cell of the experiment ``parametrisation``.
        step: the step size of the first panel, in labels.
        times: the labels at which the steps of the second panel begin, at most three.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = new_figure(1, 2)
    left, right = axes[0]
    names = {"score_error": ("ei-score", "score frozen"), "eps_error": ("ei-eps", "ε frozen")}
    for metric, (solver, text) in names.items():
        style = {**line(solver), "label": text}
        rows = rows_of(records, metric=metric)
        draw(left, [row for row in rows if row["step"] == step], "t", **style)
        for t, alpha in zip(times, (1.0, 0.75, 0.5), strict=False):
            more = {"label": f"t = {t}", "alpha": alpha}
            draw(right, [row for row in rows if row["t"] == t], "step", **{**style, **more})
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
    rows = rows_of(records, metric="extrapolation_error", grid=grid)
    figure, axes = new_figure(1, 2, sharey=True)
    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, 4))
    for ax, variable, text in zip(axes[0], ("t", "rho"), ("t", "ρ"), strict=True):
        for degree in distinct(rows, "degree"):
            chosen = [row for row in rows if row["degree"] == degree and row["variable"] == variable]
            # The time axis runs from noise to data, as the sampler does: the lines end, and are labelled, at the data.
            draw(ax, chosen, "t", color=shades[degree], marker="ovs^"[degree], label=f"degree {degree}")
        ax.set(yscale="log", xlabel="time t", title=f"polynomial in {text}")
    axes[0, 0].set_ylabel("relative error of ε")
    axes[0, 0].invert_xaxis()
    axes[0, 1].invert_xaxis()
    for ax in axes[0]:
        direct_labels(ax)
    return figure


def denoiser_error(records: Records, pixels: int = 64) -> Figure:
    """Relative error of the learned denoiser and distance to the data, along sampling trajectories.

    Permenter & Yuan, Def. 3.1, assume that the error is at most η where the distance is about √n σ.

    Args:
        records: of the experiment ``denoiser_error``.
        pixels: the number of elements n of a sample; the distance is compared with √n σ.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    errors = rows_of(records, metric="relative_error")
    distances = [row for row in rows_of(records, metric="distance") if row["sigma"] > 0]
    figure, axes = new_figure(1, 2)
    left, right = axes[0]
    names = {
        ("network", "ideal"): ("network against\nideal denoiser", RED, "o"),
        ("network", "projection"): ("network against\nprojection (η)", BLUE, "s"),
        ("ideal", "projection"): ("ideal denoiser against\nprojection (η)", BLACK, "^"),
    }
    for (of, against), (text, tint, shape) in names.items():
        chosen = [row for row in errors if (row["of"], row["against"]) == (of, against)]
        if chosen:
            draw(left, chosen, "sigma", label=text, color=tint, marker=shape, markersize=3)
    left.set(xscale="log", xlabel="σ (= ρ)", ylabel="relative error")
    draw(right, distances, "sigma", color=BLACK, marker="o", markersize=3, label="distance to the data")
    sigma = np.array(sorted(row["sigma"] for row in distances))
    right.plot(sigma, np.sqrt(pixels) * sigma, color=GREY, linestyle="--", label="√n σ")
    right.set(xscale="log", yscale="log", xlabel="σ (= ρ)", ylabel="distance")
    left.legend()
    right.legend()
    return figure
