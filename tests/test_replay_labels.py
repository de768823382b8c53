"""Replays at step counts that the folder does not have: labels that rounding repeats, and rules of rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from replay import BUILDERS, DISCRETE, Problem
from replay.analytic_dpm import _labels
from test_golden import OWN


def steps_of_ddim(problem: Problem, labels: list[int], eta: float) -> torch.Tensor:
    """DDIM's program as settings.json has it: a call and a draw at every label of the list, the repeated ones too."""
    x, network = problem.x_T, problem.model(DISCRETE)
    bar = [*problem.alpha_bar.tolist(), 1.0]
    for k, (t, u) in enumerate(zip(labels, [*labels[1:], -1], strict=True)):
        e = network(x, torch.full((len(x),), float(t), dtype=torch.float64))
        s = eta * np.sqrt((1 - bar[t] / bar[u]) * (1 - bar[u]) / (1 - bar[t]))
        data = (x - np.sqrt(1 - bar[t]) * e) / np.sqrt(bar[t])
        x = np.sqrt(bar[u]) * data + np.sqrt(1 - bar[u] - s**2) * e + s * problem.noise[k]
    return x


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("n", [16, 50, 100])
@pytest.mark.parametrize(
    ("program", "run"), [("ddim", "generalized_steps_quad_eta{}"), ("fastdpm", "STEP_quadratic_kappa{}")]
)
def test_quadratic_labels_may_repeat(program, run, n, eta):
    problem = Problem.load(OWN)
    labels = [int(s) for s in np.linspace(0, np.sqrt(800), n) ** 2][::-1]
    assert n < 50 or len(set(labels)) < n
    x, calls = BUILDERS[program](problem, run.format(eta), n, {}, {})()
    torch.testing.assert_close(x, steps_of_ddim(problem, labels, eta), rtol=1e-10, atol=1e-10)
    assert calls == n


def test_analytic_dpm_rounds_halves_of_its_own_numbers_to_even():
    assert _labels(5).tolist() == [999.0, 749.0, 499.0, 250.0, 0.0]
