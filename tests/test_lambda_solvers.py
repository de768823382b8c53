"""DPM-Solver, UniPC, the ancestral samplers and churn: which of them are the same, and how fast they converge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, reference
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.schedules import EDM, ContinuousVP, linear_vp
from fewstep.solvers.ancestral import dpm2, dpmpp_2s, dpmpp_sde
from fewstep.solvers.ddim import ddim
from fewstep.solvers.dpm_solver import _Step, dpm_solver_multistep, dpm_solver_singlestep
from fewstep.solvers.edm import edm_heun
from fewstep.solvers.unipc import _weights, unipc

DISCRETE, VP = linear_vp(), ContinuousVP()
MEANS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, 0.3, VP)
TRUTH = reference(MIXTURE, VP, START, 1.0, 1e-3)


def same(one, other) -> bool:
    """Equal canonical tables, to the rounding of weights as large as 1/α(T)."""
    return difference(one, other) < 1e-11 * max(1.0, float(np.abs(one.canonical().C).max()))


@pytest.mark.parametrize("process", [VP, DISCRETE, EDM()], ids=["vp", "discrete", "edm"])
@pytest.mark.parametrize("n", [3, 8, 25])
def test_first_order_is_ddim(process, n):
    times = grids.uniform_lambda(process, n)
    one = ddim(process, times)
    for data in (False, True):
        assert same(one, dpm_solver_multistep(process, times, 1, data))
        assert same(one, dpm_solver_singlestep(process, times, 1, data))


@pytest.mark.parametrize("n", [3, 8, 25])
def test_second_order_singlestep_in_lambda_is_dpm2_and_2s(n):
    times = grids.uniform_lambda(VP, n)
    assert same(dpm_solver_singlestep(VP, times, 2, data=False), dpm2(VP, times))
    assert same(dpm_solver_singlestep(VP, times, 2, data=True), dpmpp_2s(VP, times))


@pytest.mark.parametrize("process", [VP, DISCRETE], ids=["vp", "discrete"])
def test_sde_solvers_without_noise_are_the_ode_solvers(process):
    times = grids.rho7(process, 12)
    assert same(dpmpp_sde(process, times, eta=0.0), dpmpp_2s(process, times))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("r", [[-0.8, 1.0], [-1.3, -2.0], [-0.9, -2.1, 1.0], [-0.9, -2.1, -3.5, 1.0]])
def test_unipc_bases_agree_wherever_a_system_is_solved(r, data):
    """B(h) cancels from B R⁻¹(b/B); the bases differ only where one difference alone is weighed."""
    for rho in (0.9, 0.5, 0.05):
        step = _Step(data, 1.0, rho)
        one = _weights("bh1", step, r)
        for basis in ("bh2", "vary"):
            np.testing.assert_allclose(_weights(basis, step, r), one, rtol=1e-12)
        single = [float(_weights(basis, step, [1.0])[0]) for basis in ("bh1", "bh2", "vary")]
        assert len({round(w, 6) for w in single}) == 3


def test_churn_zero_is_deterministic_and_churn_never_leaves_the_process():
    times = grids.rho7(DISCRETE, 8)
    assert same(edm_heun(DISCRETE, times), edm_heun(DISCRETE, times, churn=0.0, s_noise=3.0))
    churned = edm_heun(DISCRETE, times, churn=80.0)
    assert churned.draws == 8 and churned.stochastic
    assert churned.times.max() <= DISCRETE.t_max


def test_churn_keeps_the_noise_level():
    """The start of each churned step is a state at ρ̂: its variance given x̄_i is ρ̂² − ρ_i²."""
    times = np.array([10.0, 2.0, 0.0])
    plan = edm_heun(EDM(), times, churn=0.4)
    form = plan.canonical()
    np.testing.assert_allclose(form.S[0, 0], 10 * np.sqrt(1.2**2 - 1), rtol=1e-12)
    np.testing.assert_allclose(plan.times[0], 12.0, rtol=1e-12)


def slope(make, grid=grids.quadratic, steps=(320, 640)):
    errors = [
        float((sample(make(grid(VP, n)), MIXTURE, START, dtype=torch.float64) - TRUTH).pow(2).mean().sqrt())
        for n in steps
    ]
    return float(np.log2(errors[0] / errors[1]))


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda t: dpm_solver_multistep(VP, t, 2, data=False), 2),
        (lambda t: dpm_solver_multistep(VP, t, 2, data=True), 2),
        (lambda t: dpm_solver_multistep(VP, t, 2, taylor=True), 2),
        (lambda t: dpm_solver_multistep(VP, t, 3), 2),
        (lambda t: dpm_solver_singlestep(VP, t, 2), 2),
        (lambda t: dpm_solver_singlestep(VP, t, 3), 3),
        (lambda t: dpm_solver_singlestep(VP, t, 3, data=True), 3),
        (lambda t: dpm_solver_singlestep(VP, t, 3, taylor=True), 3),
        (lambda t: dpm2(VP, t), 2),
        (lambda t: dpmpp_2s(VP, t), 2),
        (lambda t: unipc(VP, t, 1), 2),
        (lambda t: unipc(VP, t, 2), 3),
        (lambda t: unipc(VP, t, 3), 2),
    ],
    ids=["2m-eps", "2m", "2m-taylor", "3m", "s2", "s3", "s3++", "s3-taylor", "dpm2", "2s", "uni1", "uni2", "uni3"],
)
def test_order_of_convergence(make, order):
    assert order - 0.25 < slope(make) < order + 0.35


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: dpm_solver_multistep(VP, t, 4), "orders 1 to 3"),
        (lambda t: dpm_solver_multistep(VP, t, 2, final=-1), "final"),
        (lambda t: dpm_solver_singlestep(VP, t, [1, 2]), "5 orders"),
        (lambda t: dpm_solver_singlestep(VP, t, 4), "each 1, 2 or 3"),
        (lambda t: unipc(VP, t, 5), "orders 1 to 4"),
        (lambda t: unipc(VP, t, 2, "bh3"), "bh1, bh2, vary"),
        (lambda t: dpm2(VP, t, eta=1.5), "eta"),
        (lambda t: edm_heun(VP, t, churn=-1), "churn"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says):
        call(grids.uniform(VP, 5))
