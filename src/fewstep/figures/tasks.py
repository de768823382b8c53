"""Likelihood, inpainting, guidance and inverse problems."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ..results import METRICS
from ..solvers import SOLVERS
from .axes import calls_axis, draw, legend_below, new_figure, plain_log
from .rows import Records, distinct, rows_of
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, line

__all__ = ["METHODS", "guidance", "inpainting", "inverse", "likelihood"]


def likelihood(records: Records) -> Figure:
    """Mean error of the log-density in bits per dimension against network calls, a panel for each problem.

    Plans in the colours of their solvers; RK45 is grey, solid in t and dashed in ρ. The dotted line is at 0.01 bits.

    Args:
        records: of the experiment ``likelihood``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = rows_of(records, metric="likelihood_error", of=None)
    titles = {"mixture": "mixture", "digits": "digits, ideal denoiser", "network": "digits, network"}
    problems = sorted(distinct(rows, "problem"), key=list(titles).index)
    figure, axes = new_figure(1, len(problems), sharey=True, figsize=(7.0, 3.0))
    for ax, problem in zip(axes[0], problems, strict=True):
        here = [row for row in rows if row["problem"] == problem]
        for solver, grid in dict.fromkeys((row["solver"], row["grid"]) for row in here):
            adaptive = {"color": GREY, "marker": "x", "linestyle": "-" if grid == "in t" else "--"}
            style = {**adaptive, "label": f"RK45 {grid.replace('rho', 'ρ')}"} if solver == "rk45" else line(solver)
            draw(ax, [row for row in here if (row["solver"], row["grid"]) == (solver, grid)], "nfe", **style)
        ax.axhline(0.01, color="k", linestyle=":", linewidth=1)
        ax.set(title=titles[problem], yscale="log", ylim=(1e-6, 10))
        calls_axis(ax, (10, 30, 100, 300))
    axes[0, 0].set_ylabel("error, bits per dimension")
    legend_below(figure, 3)
    return figure


METHODS = {
    "replacement": ("replacement", BLUE, "o"),
    "resampled": ("resampling", GREEN, "s"),
    "projected": ("projection", ORANGE, "^"),
    "posterior": ("posterior sampling", RED, "D"),
}
"""How inpainting uses the known pixels: in words, colour and marker."""


def inpainting(records: Records) -> Figure:
    """Error on the known and the unknown pixels, diversity and accuracy against the fraction that is known.

    A line for each method at its largest number of calls, a thinner one at fewer.

    Args:
        records: of the experiment ``inpainting``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    figure, axes = new_figure(1, 4, figsize=(9.0, 2.8))
    panels: dict[str, dict[str, Any]] = {
        "error, known pixels": {"metric": "pixel_error", "region": "known"},
        "error, unknown pixels": {"metric": "pixel_error", "region": "unknown"},
        "diversity, unknown pixels": {"metric": "diversity"},
        "accuracy": {"metric": "accuracy"},
    }
    for ax, (title, where) in zip(axes[0], panels.items(), strict=True):
        rows = rows_of(records, **where)
        for name, (text, tint, shape) in METHODS.items():
            chosen = [row for row in rows if row["method"] == name]
            calls = sorted({row["nfe"] for row in chosen})
            for nfe in calls:
                strong = nfe == calls[-1]
                style = {"marker": shape, "color": tint, "label": f"{text}, {nfe} calls"}
                thin = {} if strong else {"linestyle": ":", "linewidth": 1.0, "markerfacecolor": "none"}
                draw(ax, [row for row in chosen if row["nfe"] == nfe], "known", strong, **style, **thin)
        ax.set(title=title, xlabel="fraction known", xticks=distinct(rows, "known"), ylim=(0, None))
    legend_below(figure, 4)
    return figure


def guidance(records: Records) -> Figure:
    """Accuracy, Fréchet distance of a class, diversity and excess against the guidance weight, a line for each solver.

    A row of panels for each kind of guidance, at its largest budget of calls. Dotted is the data themselves.

    Args:
        records: of the experiment ``guidance``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = [row for row in rows_of(records) if "class" not in row]
    kinds = distinct(rows_of(records, metric="excess"), "guidance")
    panels = {
        "accuracy": "accuracy",
        "frechet_distance": "Fréchet distance of a class",
        "diversity": "diversity",
        "excess": "excess over [−1, 1]",
    }
    figure, axes = new_figure(len(kinds), len(panels), figsize=(9.0, 2.6 * len(kinds)), sharex=True, sharey="col")
    for kind, line_of_axes in zip(kinds, axes, strict=True):
        of_kind = [row for row in rows if row.get("guidance") == kind]
        most = max(row["budget"] for row in of_kind)
        weights = sorted(distinct(of_kind, "weight"))
        for ax, metric in zip(line_of_axes, panels, strict=True):
            chosen = [row for row in of_kind if row["metric"] == metric and row["budget"] == most]
            for name in (name for name in SOLVERS if name in distinct(chosen, "solver")):
                draw(ax, [row for row in chosen if row["solver"] == name], "weight", False, **line(name))
            for value in {row["value"] for row in rows if row["metric"] == metric and row.get("of") == "data"}:
                ax.axhline(value, color=GREY, linewidth=0.8, linestyle=":")
            # Weights are doubled from one to the next, but begin at 0.
            ax.set_xscale("symlog", linthresh=1.0, base=2)
            ax.set_xticks(weights, [f"{weight:g}" for weight in weights])
            ax.xaxis.set_minor_locator(NullLocator())
        line_of_axes[0].set_ylabel(f"{kind} guidance")
        plain_log(line_of_axes[1].yaxis)
        plain_log(line_of_axes[3].yaxis)
    for top, bottom, title in zip(axes[0], axes[-1], panels.values(), strict=True):
        top.set_title(title)
        bottom.set_xlabel("guidance weight")
    legend_below(figure, 4)
    return figure


def inverse(records: Records) -> Figure:
    """RMS error per pixel of recovered images against the number of measurements and against the noise level.

    A line for each denoiser at each number of calls.

    Args:
        records: of the experiment ``inverse``.

    Raises:
        UserError: if nothing of the kind was measured.
    """
    rows = rows_of(records, metric="pixel_error")
    problems = {"sensing": ("measurements", "measurements of 64 pixels"), "denoising": ("sigma", "σ of the noise")}
    found = [name for name in problems if name in distinct(rows, "problem")]
    figure, axes = new_figure(1, len(found), figsize=(7.0, 4.0))
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
                draw(ax, same, column, **style)
        ax.set(xlabel=text, ylim=(0, None))
    axes[0, 0].set_ylabel(METRICS["pixel_error"])
    legend_below(figure, 2)
    return figure
