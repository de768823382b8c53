"""The vectors of FastDPM's program."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.plan import Plan
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm_beta_tilde

from .problem import DISCRETE, Case, Problem, Run, replay


class _Chain(schedules._VP):
    """A variance-preserving chain of few steps: ᾱ at given labels, and 1 at label −1."""

    t_min, t_end = -1.0, -1.0

    def __init__(self, labels: np.ndarray, alpha_bar: np.ndarray) -> None:
        self.t_max = float(labels[0])
        self.labels = np.append(labels, -1.0)
        self._log_alpha = np.append(0.5 * np.log(alpha_bar.astype(np.float64)), 0.0)

    def log_alpha(self, t):
        return np.interp(t, self.labels[::-1], self._log_alpha[::-1])


def _bisect(f: Callable[[float], float], low: float, high: float, target: float, slack: float) -> float:
    """The program's search for the x at which the decreasing f lies in [target, target + slack · |target|]."""
    for _ in range(1000):
        x = (low + high) / 2
        value = f(x)
        if value < target:
            high = x
        elif value > target + slack * abs(target):
            low = x
        else:
            break
    return x


def _levels(schedule: str, n: int) -> np.ndarray:
    """The program's noise levels η, whose chain ends near ᾱ_999: to 1e-4, and within a domain of its own.

    For squares the domain ends before the chain does where n is small: with 10 levels it starts at α = 0.14.
    """
    first = float(DISCRETE.betas[0])
    if schedule == "linear":
        of, low, high = (lambda x: np.linspace(first, x, n)), first, 0.99
    else:
        of, low, high = (lambda x: first * (1 + np.arange(n) * x) ** 2), 0.0, 0.95 / np.sqrt(first) / n
    return of(_bisect(lambda x: np.prod(1 - of(x)), low, high, np.prod(1 - DISCRETE.betas), 1e-4))


def _log_alpha_bar(t: float) -> float:
    """The program's log ᾱ between labels: the product of 1 − β as a quotient of two Γ, by Stirling's formula."""
    first, step = DISCRETE.betas[0], (DISCRETE.betas[-1] - DISCRETE.betas[0]) / (DISCRETE.n - 1)

    def log_factorial(y: float) -> float:
        return np.log(2 * np.pi * y) / 2 + y * (np.log(y) - 1) + np.log(1 + 1 / (12 * y))

    y = (1 - first) / step
    return (t + 1) * np.log(step) + log_factorial(y) - log_factorial(y - t - 1)


def _chain(schedule: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ᾱ of the program's chain, noisiest first; its ᾱ is a product in single precision."""
    bar = np.cumprod(1 - _levels(schedule, n).astype(np.float32), dtype=np.float32)[::-1]
    labels = []
    for value in bar:
        # Which two labels the value lies between is asked of the exact table.
        between = int(np.searchsorted(-np.cumprod(1 - DISCRETE.betas), -float(value), side="right")) - 1
        if 0 <= between < DISCRETE.n - 1:
            # The program's slack of 1e-8 is lost in single precision.
            labels.append(_bisect(_log_alpha_bar, between - 0.01, between + 1.01, float(np.log(value)), 0.0))
        else:
            labels.append(float(DISCRETE.n - 1))
    return np.array(labels), bar


def _var(schedule: str, n: int, kappa: float) -> Plan:
    labels, bar = _chain(schedule, n)
    return ddim(_Chain(labels, bar), np.append(labels, -1.0), kappa)


def _fastdpm(p: Problem, run: str, n: int, info, data) -> Run | None:
    if run == "STD":
        return replay(p, ddpm_beta_tilde(DISCRETE, np.arange(999.0, -2.0, -1.0)), p.model(DISCRETE))
    found = re.fullmatch(r"(STEP|VAR)_(linear|quadratic)_kappa([\d.]+)", run)
    if not found:
        return None
    if found[1] == "VAR":
        return replay(p, _var(found[2], n, float(found[3])), p.model(DISCRETE))
    labels = np.arange(n) * 999 / (n - 1) if found[2] == "linear" else np.linspace(0, 800**0.5, n) ** 2
    times = np.append(np.floor(labels + 1e-9)[::-1], -1.0)
    return replay(p, ddim(DISCRETE, times, float(found[3])), p.model(DISCRETE))


def _rounding(problem: Problem, case: Case, x: Tensor) -> bool:
    """VAR: the program forms the weights of every step in single precision from ᾱ in single precision.

    Its levels and its labels are replayed to the bit, so what is left is the rounding of the weights. A weight is a few
    operations away from ᾱ, each with a relative error of 2⁻²⁴ (and square roots of 2⁻²³): to first order the result may
    move by no more than it does when every weight in turn moves by 2⁻²¹ of itself. The difference is checked against
    that sum, element by element (and is some 1e-7 in all). The side with the exact weights is right.
    """
    found = re.fullmatch(r"VAR_(linear|quadratic)_kappa([\d.]+)", case.run)
    if not found:
        return False
    plan, bound = _var(found[1], case.steps, float(found[2])), torch.zeros_like(x)
    for row, terms in enumerate(plan.states):
        for key, weight in terms.items():
            states = [*plan.states]
            states[row] = {**terms, key: weight * (1 + 2**-21)}
            moved, calls = replay(problem, replace(plan, states=tuple(states)), problem.model(DISCRETE))()
            bound += (moved - x).abs()
    return calls == case.calls and bool(((x - torch.as_tensor(case.expected)).abs() <= bound).all())


BUILDERS = {"fastdpm": _fastdpm}
EXPLAINED = {"fastdpm": _rounding}
