"""Figures: one style, one colour and one marker per solver, and a function for each figure that is drawn from records.

A function of records, or of several plans, draws on axes of its own and returns the Figure; the others take the axes to
draw on. A module holds what belongs together; all of it is called from the package, as ``figures.paths``.
"""

from __future__ import annotations

from .ablations import PROBLEMS, gamma_sweep, ingredients, schedules, time_grids
from .axes import direct_labels
from .epsilon import denoiser_error, extrapolation, parametrisation
from .exact_error import convergence, error_against_nfe
from .families import FAMILIES, own_grid
from .images import image_grid
from .matrices import canonical_difference, canonical_matrices, canonical_matrix
from .quality import quality_against_cost, quality_against_nfe
from .rows import Records, cells_drawn
from .style import (
    BLACK,
    BLUE,
    BROWN,
    GREEN,
    GREY,
    GRID_COLORS,
    MARKS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLE,
    Mark,
    color,
    label,
    line,
    linestyle,
    marker,
    use_style,
)
from .tasks import METHODS, guidance, inpainting, inverse, likelihood
from .timing import cost
from .trajectories import paths

__all__ = [
    "BLACK",
    "BLUE",
    "BROWN",
    "FAMILIES",
    "GREEN",
    "GREY",
    "GRID_COLORS",
    "MARKS",
    "METHODS",
    "ORANGE",
    "PROBLEMS",
    "PURPLE",
    "RED",
    "SKY",
    "STYLE",
    "Mark",
    "Records",
    "canonical_difference",
    "canonical_matrices",
    "canonical_matrix",
    "cells_drawn",
    "color",
    "convergence",
    "cost",
    "denoiser_error",
    "direct_labels",
    "error_against_nfe",
    "extrapolation",
    "gamma_sweep",
    "guidance",
    "image_grid",
    "ingredients",
    "inpainting",
    "inverse",
    "label",
    "likelihood",
    "line",
    "linestyle",
    "marker",
    "own_grid",
    "parametrisation",
    "paths",
    "quality_against_cost",
    "quality_against_nfe",
    "schedules",
    "time_grids",
    "use_style",
]
