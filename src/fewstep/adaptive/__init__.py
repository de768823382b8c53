"""Samplers that choose while they run: error-controlled solvers of the probability-flow ODE."""

from __future__ import annotations

from .dpm_solver import PID, Adaptive, Elementary, dpm_solver_adaptive, largest_rms, rms

__all__ = ["PID", "Adaptive", "Elementary", "dpm_solver_adaptive", "largest_rms", "rms"]
