"""Samplers that choose while they run: error-controlled ODE solvers, and correctors that size their own steps."""

from __future__ import annotations

from .dpm_solver import PID, Adaptive, Elementary, dpm_solver_adaptive, largest_rms, rms
from .predictor_corrector import predictor_corrector
from .rk45 import rk45

__all__ = [
    "PID",
    "Adaptive",
    "Elementary",
    "dpm_solver_adaptive",
    "largest_rms",
    "predictor_corrector",
    "rk45",
    "rms",
]
