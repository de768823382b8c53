r"""What the book's interactive figures show, as plain data: tables of samplers, one small problem, measured numbers.

A browser needs no solver. It gets the plans themselves and does with them what :func:`fewstep.run.sample` does: a model
call and a linear combination for each state. Its model is :math:`\varepsilon^*` of a Gaussian mixture, a closed form.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from torch import Tensor

from . import exact, figures, grids, results, schedules, solvers
from .errors import UserError
from .noise import normal
from .plan import Plan

__all__ = ["BUDGETS", "CHOICES", "GRIDS", "PATHS", "SEED", "Choice", "plans", "problem", "quality", "starts", "tables"]

BUDGETS = (4, 5, 6, 8, 10, 12, 15, 20, 30)
"""Network calls that a reader can choose."""

GRIDS = {
    "uniform": "uniform in t",
    "quadratic": "quadratic in t",
    "rho7": "uniform in ρ^(1/7)",
    "uniform-lambda": "uniform in λ",
    "log-linear": "log-linear to σ = 0.06",
}
"""Time grids that a reader can choose, in words."""

PATHS = 12
"""How many start points."""

SEED = 11
"""Of the start points (draw 0) and the samplers' noises (draw 1, 2, …)."""

EDGE = 2.4
"""The pictures show the square of points with coordinates up to this."""


class Choice(NamedTuple):
    """A sampler that a reader can choose, with at most one option that a slider sets."""

    solver: str
    option: str | None = None
    values: tuple[float, ...] = ()
    first: int = 0
    """Which of the values is set to begin with."""


CHOICES = (
    Choice("ddim", "eta", (0.0, 0.25, 0.5, 0.75, 1.0)),
    Choice("ddpm-beta-tilde"),
    Choice("ddpm"),
    Choice("euler"),
    Choice("ge", "gamma", (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0), 4),
    Choice("pndm-s"),
    Choice("pndm-f"),
    Choice("plms"),
    Choice("ipndm-1"),
    Choice("ipndm-2"),
    Choice("ipndm-4"),
    Choice("deis-tab0"),
    Choice("deis-tab1"),
    Choice("deis-tab3"),
    Choice("deis-rhoab0"),
    Choice("deis-rhoab1"),
    Choice("deis-rhoab3"),
    Choice("deis-rhork-heun"),
    Choice("deis-rhork-midpoint"),
    Choice("edm-heun"),
    Choice("dpm-solver-2"),
    Choice("dpmpp-2m"),
    Choice("unipc-3"),
)
"""Samplers that a reader can choose; some of them are the same, which is for the reader to find."""


@functools.cache
def problem() -> exact.GaussianMixture:
    """Five Gaussians in the plane (weights 1 to 3, s = 0.2), on DDPM's linear schedule."""
    angle = np.pi / 2 + 2 * np.pi * np.arange(5) / 5
    means = torch.tensor(1.6 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    weights = torch.tensor([3.0, 1.0, 2.0, 1.0, 2.0], dtype=torch.float64)
    return exact.GaussianMixture(means, 0.2, schedules.linear_vp(), weights)


def starts() -> Tensor:
    """The start points, :data:`PATHS` draws from N(0, I), shape (PATHS, 2)."""
    return normal(SEED, 0, range(PATHS), (2,), torch.float64)


def plans(budgets: Iterable[int] = BUDGETS) -> Iterator[tuple[str, Plan]]:
    """Every choice on every grid and budget, under the key ``solver|value of its option|grid|budget``.

    A sampler that cannot spend so few calls is left out.

    Args:
        budgets: of network calls.
    """
    process = problem().process
    # The paper's grid starts at σ = 40; here all start at the same points, and those are draws at the noisy end.
    ends = {"log-linear": {"rho_start": float(process.rho(process.t_max))}}
    for solver, option, values, _ in CHOICES:
        for value in values or (None,):
            options = {} if option is None else {option: value}
            for grid in GRIDS:
                for budget in budgets:
                    try:
                        plan = solvers.build(solver, process, budget, grid, ends.get(grid), **options)
                    except UserError:  # the budget is too small
                        continue
                    yield f"{solver}|{'' if value is None else f'{value:g}'}|{grid}|{budget}", plan


def tables(budgets: Iterable[int] = BUDGETS) -> dict[str, Any]:
    r"""Plans, problem, start points, noises and exact solutions, ready for JSON.

    ``levels`` holds (t, α, σ) of all calls. A plan has ``inputs`` (the state of each call), ``levels`` (the number of
    each call's level, then the result's), and ``rows``: for each state the terms of its combination, one after the
    other as kind (0 a state, 1 an output, 2 a noise), number and weight.

    Args:
        budgets: of network calls.
    """
    budgets = tuple(budgets)
    levels: dict[tuple[float, float, float], int] = {}
    packed, draws = {}, 0
    for key, plan in plans(budgets):
        at = zip(plan.times.tolist(), plan.alpha.tolist(), plan.sigma.tolist(), strict=True)
        packed[key] = {
            "inputs": plan.inputs,
            "levels": [levels.setdefault(level, len(levels)) for level in at],
            "rows": [
                [number for (kind, index), c in terms.items() for number in ("xez".index(kind), index, c)]
                for terms in plan.states
            ],
        }
        draws = max(draws, plan.draws)
    mixture, x = problem(), starts()
    process = mixture.process
    times = grids.build("quadratic", process, 40)  # of the drawn path
    path = exact.reference(mixture, process, x, times[0], times[-1], times=times[1:])
    return {
        "budgets": budgets,
        "grids": GRIDS,
        "choices": [_described(choice) for choice in CHOICES],
        "plans": packed,
        "levels": list(levels),
        "problem": {
            "means": mixture.means.tolist(),
            "weights": mixture.weights.tolist(),
            "std": mixture.std,
            "edge": EDGE,
            "contours": _contours(mixture),
        },
        "starts": x.tolist(),
        "noises": [normal(SEED, draw + 1, range(PATHS), (2,), torch.float64).tolist() for draw in range(draws)],
        "exact": path.transpose(0, 1).tolist(),
    }


def _described(choice: Choice) -> dict[str, Any]:
    solver = solvers.get(choice.solver)
    mark = figures.MARKS[choice.solver]
    return {**choice._asdict(), "title": solver.title, "grid": solver.default_grid, "color": mark.color}


def _contours(mixture: exact.GaussianMixture, n: int = 121) -> list[list[list[float]]]:
    """Lines of equal density of the data, from far to near the modes; each a list x, y, x, y, …"""
    side = torch.linspace(-EDGE, EDGE, n, dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    density = mixture.log_density(torch.stack([x, y], dim=-1).reshape(-1, 2), torch.tensor(-1.0)).exp().view(n, n)
    levels = [share * float(density.max()) for share in (0.02, 0.1, 0.3, 0.6)]
    found = Figure().subplots().contour(x, y, density, levels=levels)
    return [[line.round(3).ravel().tolist() for line in lines] for lines in found.allsegs]


DASHES = {"-": "", "--": "6 3", ":": "1.5 3", "-.": "7 3 1.5 3"}
"""Line styles as SVG writes them."""


def quality(records: Iterable[results.Record], floor: float) -> dict[str, Any]:
    """Fréchet distance against network calls, each solver on its own grid, ready for JSON.

    Args:
        records: of the experiment ``frechet``.
        floor: the distance of two halves of the data.

    Raises:
        UserError: if no Fréchet distance was measured.
    """
    rows = [row for row in results.table(records) if row["metric"] == "frechet_distance"]
    if not rows:
        raise UserError("no record measures a Fréchet distance; `make experiments` makes the records")
    measured: dict[str, dict[str, Any]] = {}
    for name in solvers.SOLVERS:
        mine = [row for row in rows if row["solver"] == name]
        if not mine:
            continue
        grid = figures.own_grid(name, [row["grid"] for row in mine])
        color, marker, linestyle = figures.MARKS[name]
        measured[name] = {
            "title": solvers.get(name).title,
            "grid": grid,
            "color": color,
            "marker": _outline(marker),
            "dash": DASHES[linestyle] if isinstance(linestyle, str) else " ".join(f"{n:g}" for n in linestyle[1]),
            "points": sorted(
                [row["nfe"], row["value"], row["low"], row["high"], row["samples"], len(row["seeds"])]
                for row in mine
                if row["grid"] == grid
            ),
        }
    families = {title: [name for name in names if name in measured] for title, names in figures.FAMILIES.items()}
    return {
        "metric": results.METRICS["frechet_distance"],
        "families": {title: names for title, names in families.items() if set(names) - {"ddim"}},
        "solvers": measured,
        "floor": floor,
    }


def _outline(marker: str) -> dict[str, Any]:
    """A marker of matplotlib as an SVG path in a box of about ±0.5, y upwards as it is drawn there."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    letters = {path.MOVETO: "M", path.LINETO: "L", path.CURVE3: "Q", path.CURVE4: "C", path.CLOSEPOLY: "Z"}
    parts = []
    for points, code in path.iter_segments(simplify=False):
        parts.append(letters[code] + ("" if code == path.CLOSEPOLY else " ".join(f"{p:.3g}" for p in points)))
    return {"path": "".join(parts), "filled": style.is_filled()}
