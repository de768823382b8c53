"""Random processes, grids, solvers and shapes: a plan that keeps its promises, or one line that says what is wrong.

``HYPOTHESIS_PROFILE=nightly`` tries 10,000 examples of each instead of 200.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewstep import grids, results
from fewstep.cli import main
from fewstep.errors import UserError
from fewstep.noise import normal
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, DiscreteVP, Process, SubVP, cosine_vp, linear_vp
from fewstep.solvers import SOLVERS, build

settings.register_profile(
    "ci", max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

APPROXIMATE = ("euler", "rk4", "fon", "ei-score", "reverse-diffusion-ode", "quasi-taylor")
"""Deterministic solvers that discretise the linear part too, or freeze the score: inexact for a constant ε."""


def _positive(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(np.log(low), np.log(high)).map(lambda v: float(np.exp(v)))


@st.composite
def processes(draw) -> Process:
    kind = draw(st.sampled_from(["linear", "cosine", "betas", "vp", "sub-vp", "ve", "edm"]))
    if kind == "linear":
        low = draw(_positive(1e-6, 1e-2))
        return linear_vp(draw(st.integers(2, 2000)), low, draw(_positive(low, 0.05)))
    if kind == "cosine":
        return cosine_vp(draw(st.integers(2, 2000)))
    if kind == "betas":
        return DiscreteVP(np.array(draw(st.lists(_positive(1e-6, 0.5), min_size=1, max_size=40))))
    if kind in ("vp", "sub-vp"):
        low = draw(_positive(1e-3, 1.0))
        return (ContinuousVP if kind == "vp" else SubVP)(low, draw(_positive(low, 40.0)))
    if kind == "ve":
        low = draw(_positive(1e-4, 0.5))
        return VE(low, draw(_positive(low * 1.01, 500.0)))
    return EDM(draw(_positive(0.1, 500.0)))


@st.composite
def plans(draw):
    """A plan and its process, or the error in its place."""
    process = draw(processes())
    name = draw(st.sampled_from(sorted(SOLVERS)))
    nfe = draw(st.integers(0, 60))
    try:
        if draw(st.booleans()):
            grid = draw(st.sampled_from(sorted(grids.GRIDS)))
        else:
            inside = st.floats(process.t_min, process.t_max)
            grid = np.sort(np.array(draw(st.lists(inside, min_size=1, max_size=20))))[::-1]
        return name, process, build(name, process, nfe, grid)
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return name, process, None


@given(plans())
def test_a_plan_is_finite_and_consistent_or_the_error_says_why(made):
    name, process, plan = made
    if plan is None:
        return
    form = plan.canonical()
    assert all(np.isfinite(part).all() for part in (form.times, form.a, form.C, form.S))
    assert plan.nfe >= 1 and plan.slots >= 2
    assert (np.diff(plan.times) <= 0).all() or plan.stochastic or SOLVERS[name].calls > 1 or SOLVERS[name].extra > 0
    if plan.draws or name in APPROXIMATE:
        return
    # A constant ε: x̄_K = x̄_0 + (ρ_K − ρ_0) ε. The rounding is that of the largest weights, and that of quadrature in
    # log ρ, whose nodes exp(s) are rounded as s is.
    rho = process.rho(plan.times[[0, -1]])
    X, E, _ = plan.table()
    drop = float(np.log(rho[0] / rho[1])) if rho[1] > 0 else 0.0
    scale = plan.nfe * (1e-13 + 4 * np.finfo(float).eps * drop) * float(max(1.0, np.abs(X).max(), np.abs(E).max()))
    assert abs(form.a[-1] * plan.alpha[0] - plan.alpha[-1]) < scale
    assert abs(form.C[-1].sum() - plan.alpha[-1] * (rho[1] - rho[0])) < scale * max(1.0, float(np.abs(form.C).max()))


@given(
    plans(),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**63),
)
def test_running_a_plan_is_the_table(made, shape, batch, dtype, seed):
    """For the ε-model ε = x the executor and the table agree, in any shape and dtype; or the values overflow."""
    _, _, plan = made
    if plan is None:
        return
    x = normal(seed, 0, range(batch), shape, torch.float64)
    X, E, S = plan.table()
    states, calls = [x], []
    for m in range(len(plan.states) + 1):
        if m:
            state = sum((c * s for c, s in zip(X[m - 1], states, strict=False) if c), torch.zeros_like(x))
            state = state + sum((c * e for c, e in zip(E[m - 1], calls, strict=False) if c), torch.zeros_like(x))
            for draw, c in enumerate(S[m - 1]):
                if c:
                    state = state + c * normal(seed, draw + 1, range(batch), shape, torch.float64)
            states.append(state)
        calls += [states[m] for input_ in plan.inputs if input_ == m]
    size = max(float(state.abs().max()) for state in states)
    if not size < 1e30:
        return
    found = sample(plan, lambda x, t: x, x, seed=seed, dtype=dtype)
    assert found.shape == x.shape and found.dtype == dtype
    weights = max(1.0, float(np.abs(np.hstack([X, E])).sum(1).max()))
    tolerance = (1e-4 if dtype == torch.float32 else 1e-12) * size * weights * len(states)
    assert float((found.double() - states[-1]).abs().max()) <= tolerance


words = st.text(max_size=20) | st.sampled_from(
    [*SOLVERS, *grids.GRIDS, "--eta", "--nfe", "--grid", "-1", "nan", "../x", "$(x)", "a b"]
)


@given(st.sampled_from(["list", "compare", "sample", "evaluate"]), st.lists(words, max_size=6))
def test_the_command_line_never_shows_a_traceback(capsys, command, arguments):
    if command in ("sample", "evaluate"):
        arguments = [*arguments, "--solver", "no such solver"]  # nothing may run, only be refused
    with pytest.raises(SystemExit) as end:
        main([command, *arguments])
    assert end.value.code in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


yaml = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["digits", "cells"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.text(max_size=60) | yaml)
def test_any_profile_file_is_read_or_refused_in_one_line(tmp_path_factory, content):
    import yaml as library

    root = tmp_path_factory.mktemp("root")
    (root / "workflow").mkdir()
    text = content if isinstance(content, str) else library.safe_dump(content)
    (root / "workflow" / "experiments.yml").write_text(text, encoding="utf-8", errors="replace")
    try:
        for profile in results.profiles(root):
            results.cells(profile, root=root)
    except UserError as error:
        assert "\n" not in str(error)
