"""The book's style: Matplotlib's settings, and one colour, one marker and one line style for each solver.

Colours are of the Okabe–Ito palette, which readers with any common colour blindness can tell apart: one hue per family
of solvers, with line style and marker telling the members of a family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib import rc_params_from_file

from ..dark import show_both
from ..solvers import get

__all__ = [
    "BLACK",
    "BLUE",
    "BROWN",
    "GREEN",
    "GREY",
    "GRID_COLORS",
    "MARKS",
    "ORANGE",
    "PURPLE",
    "RED",
    "SKY",
    "STYLE",
    "LineStyle",
    "Mark",
    "color",
    "label",
    "line",
    "linestyle",
    "marker",
    "use_style",
]

STYLE = rc_params_from_file(Path(__file__).with_name("book.mplstyle"), use_default_template=False)
"""Matplotlib settings of the book, from its style file."""

BLACK, GREY, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, BROWN = (
    "#000000",
    "#7f7f7f",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8c5a2b",
)


LineStyle = str | tuple[int, tuple[int, ...]]
"""A line style as Matplotlib names it, or an offset and the lengths of dashes and gaps, in widths of the line."""


class Mark(NamedTuple):
    """How a solver is drawn."""

    color: str
    marker: str
    linestyle: LineStyle = "-"


MARKS = {
    "ddpm": Mark(GREY, "o"),
    "ddpm-beta-tilde": Mark(GREY, "s", "--"),
    "ddim": Mark(BLACK, "o"),
    "ei-eps": Mark(BLACK, "D", "--"),
    "ei-score": Mark(BROWN, "D", "--"),
    "euler": Mark(BROWN, "o"),
    "rk4": Mark(RED, "s", "--"),
    "fon": Mark(RED, "^"),
    "pndm-s": Mark(BLUE, "o", "--"),
    "pndm-f": Mark(BLUE, "^"),
    "pndm-prk": Mark(BLUE, "s", ":"),
    "ipndm-1": Mark(SKY, "o", (0, (1, 2))),
    "ipndm-2": Mark(SKY, "v", ":"),
    "ipndm-3": Mark(SKY, "s", "--"),
    "ipndm-4": Mark(SKY, "^"),
    "deis-tab0": Mark(GREEN, "o", (0, (1, 2))),
    "deis-tab1": Mark(GREEN, "v", ":"),
    "deis-tab2": Mark(GREEN, "s", "--"),
    "deis-tab3": Mark(GREEN, "^"),
    "deis-rhoab0": Mark(PURPLE, "o", (0, (1, 2))),
    "deis-rhoab1": Mark(PURPLE, "v", ":"),
    "deis-rhoab2": Mark(PURPLE, "s", "--"),
    "deis-rhoab3": Mark(PURPLE, "^"),
    "deis-lambdaab1": Mark(ORANGE, "1", ":"),
    "deis-lambdaab2": Mark(ORANGE, "2", "--"),
    "deis-lambdaab3": Mark(ORANGE, "3"),
    "deis-rhork-midpoint": Mark(RED, "v", ":"),
    "deis-rhork-heun": Mark(RED, "o"),
    "deis-rhork-kutta3": Mark(RED, "D", "--"),
    "deis-rhork-heun3": Mark(RED, "X", (0, (4, 1, 1, 1))),
    "deis-rhork-rk4": Mark(RED, "P", "-."),
    "edm-heun": Mark(RED, "*", (0, (1, 2))),
    "ge": Mark(ORANGE, "o"),
    "dpm-solver-2": Mark(BLUE, "v", "--"),
    "dpm-solver-3": Mark(BLUE, "D"),
    "dpm-solver-fast": Mark(BLUE, "P", ":"),
    "dpm-solver-2m": Mark(SKY, "v", "--"),
    "dpm-solver-3m": Mark(SKY, "D", ":"),
    "dpmpp-2s": Mark(ORANGE, "v", "--"),
    "dpmpp-3s": Mark(ORANGE, "D"),
    "dpmpp-2m": Mark(GREEN, "v", "--"),
    "dpmpp-3m": Mark(GREEN, "D"),
    "unipc-1": Mark(PURPLE, "h", ":"),
    "unipc-2": Mark(PURPLE, "d", "--"),
    "unipc-3": Mark(PURPLE, "D"),
    "unipc-4": Mark(PURPLE, "P", "-."),
    "dpm2": Mark(RED, "<"),
    "dpm2-ancestral": Mark(RED, "<", ":"),
    "dpmpp-2s-ancestral": Mark(ORANGE, "v", ":"),
    "dpmpp-sde": Mark(ORANGE, "s", "--"),
    "dpmpp-2m-sde": Mark(GREEN, "p", "--"),
    "dpmpp-3m-sde": Mark(GREEN, "P", ":"),
    "plms": Mark(BLUE, "h", "-."),
    "sde-dpm-solver-2m": Mark(SKY, "s", ":"),
    "euler-maruyama": Mark(BROWN, "s", ":"),
    "ancestral": Mark(GREY, "v", ":"),
    "reverse-diffusion": Mark(GREY, "D", "--"),
    "reverse-diffusion-ode": Mark(BROWN, "v", "-."),
    "quasi-taylor": Mark(SKY, "h", "-."),
    "ito-taylor": Mark(SKY, "p", "--"),
    "analytic-ddpm": Mark(PURPLE, "s", ":"),
    "analytic-ddim": Mark(PURPLE, "*", "-."),
}
"""Colour, marker and line style of every solver, in all figures."""

GRID_COLORS = {"uniform": BLUE, "quadratic": GREEN, "rho7": ORANGE}
"""Colours of the time grids, in figures that compare them."""


def use_style() -> None:
    """Set :data:`STYLE` for all figures drawn from now on; a notebook shows each with its dark version."""
    show_both()
    plt.rcParams.update(STYLE)


def color(name: str) -> str:
    """The colour of a solver.

    Raises:
        UserError: if there is no solver of this name.
    """
    return _mark(name).color


def marker(name: str) -> str:
    """The marker of a solver; raises as :func:`color`."""
    return _mark(name).marker


def linestyle(name: str) -> LineStyle:
    """The line style of a solver; raises as :func:`color`."""
    return _mark(name).linestyle


def label(name: str) -> str:
    """The solver's name as a reader knows it; raises as :func:`color`."""
    return get(name).title


def line(name: str) -> dict[str, Any]:
    """``color``, ``marker``, ``linestyle`` and ``label`` of a solver, as keywords of ``plot``."""
    return {**_mark(name)._asdict(), "label": label(name)}


def _mark(name: str) -> Mark:
    """How a solver is drawn; one that a reader has added gets grey crosses."""
    get(name)
    return MARKS.get(name, Mark(GREY, "x"))
