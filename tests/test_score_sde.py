"""Score SDE's samplers: which tables they are, what they do to a Gaussian, and the samplers that are no tables."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.adaptive import predictor_corrector, rk45
from fewstep.adaptive.predictor_corrector import _norm
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, solution
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, SubVP, linear_vp
from fewstep.solvers.classical import euler
from fewstep.solvers.ddim import ddim
from fewstep.solvers.ddpm import ddpm, ddpm_beta_tilde
from fewstep.solvers.score_sde import (
    PREDICTORS,
    ancestral,
    ancestral_step,
    annealed_langevin,
    euler_maruyama,
    euler_transition,
    exact_transition,
    predict,
    reverse_diffusion,
    reverse_diffusion_step,
)

DISCRETE, VP = linear_vp(), ContinuousVP()
PROCESSES = {"vp": VP, "sub-vp": SubVP(), "ve": VE(), "edm": EDM(50.0), "discrete": DISCRETE}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
clean_process = pytest.mark.parametrize(
    "process", [p for p in PROCESSES.values() if not isinstance(p, VE)], ids=[k for k in PROCESSES if k != "ve"]
)
MEANS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(one, other) -> bool:
    """Equal canonical tables, to the rounding of weights as large as 1/α(T)."""
    return difference(one, other) < 1e-11 * max(1.0, float(np.abs(one.canonical().C).max()))


def moments(plan, std: float, mean: float = 0.0) -> tuple[float, float]:
    """Mean and variance of the result for data N(mean, std²), exact: with its linear ε* the whole sampler is linear."""
    spread = plan.alpha**2 * std**2 + plan.sigma**2
    forms, shifts = [np.eye(1, 1 + plan.draws)[0]], [0.0]
    for terms in plan.states:
        form, shift = np.zeros(1 + plan.draws), 0.0
        for (kind, k), weight in terms.items():
            if kind == "z":
                form[1 + k] += weight
                continue
            source, factor = (k, weight) if kind == "x" else (plan.inputs[k], weight * plan.sigma[k] / spread[k])
            form += factor * forms[source]
            shift += factor * (shifts[source] - (plan.alpha[k] * mean if kind == "e" else 0.0))
        forms.append(form)
        shifts.append(shift)
    form = forms[-1]
    return form[0] * plan.alpha[0] * mean + shifts[-1], form[0] ** 2 * spread[0] + float(np.sum(form[1:] ** 2))


@every_process
def test_the_exact_transition_carries_one_marginal_to_the_next(process):
    times = grids.uniform(process, 7)
    for t, u in itertools.pairwise(times):
        a, v = exact_transition(process, t, u)
        np.testing.assert_allclose(a * process.alpha(u), process.alpha(t), rtol=1e-12)
        np.testing.assert_allclose(a**2 * process.sigma(u) ** 2 + v, process.sigma(t) ** 2, rtol=1e-12)


def test_on_ddpm_labels_the_transition_is_beta():
    for k in (0, 1, 500, 999):
        a, v = exact_transition(DISCRETE, k, k - 1)
        np.testing.assert_allclose([a**2, v], [1 - DISCRETE.betas[k], DISCRETE.betas[k]], rtol=1e-10)


@pytest.mark.parametrize("process", [VP, SubVP(), VE()], ids=["vp", "sub-vp", "ve"])
def test_the_euler_transition_is_the_limit_of_the_exact_one(process):
    """Both are (1, 0) + h (f, g²) + O(h²): halving h divides their difference by four."""
    gaps = [
        np.subtract(exact_transition(process, 0.5, 0.5 - h), euler_transition(process, 0.5, 0.5 - h))
        for h in (2e-3, 1e-3)
    ]
    assert abs(gaps[0][1] / gaps[1][1] - 4) < 0.05
    assert gaps[0][0] == gaps[1][0] == 0 or abs(gaps[0][0] / gaps[1][0] - 4) < 0.05


@every_process
def test_euler_maruyama_is_the_equation_of_the_reverse_sde(process):
    t, u = grids.uniform(process, 5, t_end=process.t_end)[1:3]
    h, f, g2, sigma = t - u, process.dlog_alpha(t), process.g2(t), process.sigma(t)
    X, E, S = euler_maruyama(process, np.array([t, u]), denoise=False).table()
    np.testing.assert_allclose([X[0, 0], E[0, 0], S[0, 0]], [1 - h * f, -h * g2 / sigma, np.sqrt(h * g2)], rtol=1e-12)


@every_process
def test_the_flow_of_euler_maruyama_is_eulers_method(process):
    times = grids.uniform(process, 9)
    plan = euler_maruyama(process, times, flow=True)
    assert plan.draws == 0
    assert close(plan, euler(process, times))


@clean_process
def test_ancestral_sampling_is_ddpm(process):
    """Down to a clean end, where DDPM's last step has no noise either."""
    times = grids.uniform(process, 9, t_end=process.t_min)
    assert close(ancestral(process, times), ddpm(process, times))
    assert close(ancestral(process, times, posterior=True), ddpm_beta_tilde(process, times))


def test_reverse_diffusion_is_ddpm_for_ve_only():
    ve = grids.rho7(EDM(50.0), 9)
    assert close(reverse_diffusion(EDM(50.0), ve), ddpm(EDM(50.0), ve))
    vp = grids.uniform(VP, 9, t_end=0.0)
    assert difference(reverse_diffusion(VP, vp), ddpm(VP, vp)) > 0.1


@pytest.mark.parametrize("process", [VP, DISCRETE], ids=["vp", "discrete"])
def test_reverse_diffusion_and_ancestral_sampling_differ_in_second_order(process):
    """1/a − (2 − a) = (1 − a)²/a in the state's weight, v/σ (1/a − 1) in the output's (score SDE, App. E)."""
    t, u = grids.uniform(process, 100)[40:42]
    a, v = exact_transition(process, t, u)
    one, other = reverse_diffusion_step(process, t, u), ancestral_step(process, t, u)
    assert one.noise == other.noise
    np.testing.assert_allclose(other.x - one.x, (1 - a) ** 2 / a, rtol=1e-9)
    np.testing.assert_allclose(other.eps - one.eps, -v / process.sigma(t) * (1 / a - 1), rtol=1e-9)


def test_the_two_variances_are_exact_for_the_two_extreme_data():
    """β for standard normal data, β̃ for a single point (DDPM, §3.2), at any number of steps."""
    times = grids.uniform(VP, 5)
    assert moments(ancestral(VP, times, denoise=False), 1.0)[1] == pytest.approx(1.0, rel=1e-12)
    mean, variance = moments(ancestral(VP, times, posterior=True, denoise=False), 0.0, 0.7)
    assert mean == pytest.approx(0.7 * float(VP.alpha(times[-1])), rel=1e-12)
    assert variance == pytest.approx(float(VP.sigma(times[-1])) ** 2, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@every_process
def test_every_eta_keeps_the_marginals_of_one_point(process, eta):
    """DDIM, Lemma 1: given x_0 the states have the law N(α x_0, σ²), whatever η and the number of steps."""
    times = grids.uniform(process, 5, t_end=process.t_min + 0.2 * (process.t_max - process.t_min))
    mean, variance = moments(ddim(process, times, eta=eta), 0.0, 0.7)
    assert mean == pytest.approx(0.7 * float(process.alpha(times[-1])), rel=1e-11)
    assert variance == pytest.approx(float(process.sigma(times[-1])) ** 2, rel=1e-9)


def test_predictors_by_name_are_the_solvers():
    times = grids.uniform(VP, 6)
    solvers = {
        "euler-maruyama": euler_maruyama(VP, times),
        "euler-maruyama-flow": euler_maruyama(VP, times, flow=True),
        "reverse-diffusion": reverse_diffusion(VP, times),
        "reverse-diffusion-flow": reverse_diffusion(VP, times, flow=True),
        "ancestral": ancestral(VP, times),
        "ancestral-posterior": ancestral(VP, times, posterior=True),
    }
    assert solvers.keys() == PREDICTORS.keys()
    for name, plan in solvers.items():
        assert difference(predict(VP, times, name), plan) == 0.0
    with pytest.raises(UserError, match="did you mean ancestral"):
        predictor_corrector(VP, times, elementwise, START, predictor="ancestrall")


def test_denoise_drops_the_last_noise_and_nothing_else():
    times = grids.uniform(VP, 6)
    mean, noisy = (reverse_diffusion(VP, times, denoise=d).canonical() for d in (True, False))
    np.testing.assert_array_equal(mean.C, noisy.C)
    np.testing.assert_array_equal(mean.S[:, :-1], noisy.S[:, :-1])
    assert mean.S[-1, -1] == 0.0
    np.testing.assert_allclose(noisy.S[-1, -1] ** 2, exact_transition(VP, times[-2], times[-1])[1], rtol=1e-12)


SAMPLERS = {
    "euler-maruyama": euler_maruyama,
    "reverse diffusion": reverse_diffusion,
    "reverse diffusion, flow": functools.partial(reverse_diffusion, flow=True),
    "ancestral": ancestral,
    "ancestral, posterior": functools.partial(ancestral, posterior=True),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process", [VP, SubVP(), VE()], ids=["vp", "sub-vp", "ve"])
def test_mean_and_variance_converge_with_order_one(process, name):
    """Data N(0.7, 0.5²): the moments of the result against the marginal's, no sampling involved."""
    errors = []
    for n in (400, 800):
        times = grids.uniform(process, n, t_end=0.01)
        mean, variance = moments(SAMPLERS[name](process, times, denoise=False), 0.5, 0.7)
        alpha, sigma = float(process.alpha(0.01)), float(process.sigma(0.01))
        errors.append([abs(mean - alpha * 0.7), abs(variance - alpha**2 * 0.25 - sigma**2)])
    mean, variance = np.log2(np.divide(*errors))
    if "ancestral" in name or isinstance(process, VE):  # x̄ − E x_0 is a multiple of itself: no error in the mean
        assert errors[1][0] < 1e-11
    else:
        assert 0.9 < mean < 1.1
    # Where f = 0 Euler–Maruyama's error of first order almost cancels; what is left falls faster.
    assert 0.9 < variance < (2.1 if name == "euler-maruyama" and isinstance(process, VE) else 1.1)


def test_langevin_at_one_level_keeps_the_marginal_to_the_order_of_its_step():
    """x ← (1 − δ/v)x + √(2δ) z settles at variance v/(1 − δ/2v)."""
    t, snr, v = 0.4, 0.3, float(VP.alpha(0.4) ** 2 * 0.25 + VP.sigma(0.4) ** 2)
    times = np.array([t, 0.39])
    plan = annealed_langevin(VP, times, None, corrections=200, snr=snr)
    assert plan.nfe == plan.draws == 200
    delta = 2 * (exact_transition(VP, *times)[0] * snr * float(VP.sigma(t))) ** 2
    settled = (1.0 - delta / v) ** 400
    expected = v * settled + (1 - settled) * v / (1 - delta / (2 * v))
    # The state is read off at 0.39 as it is.
    assert moments(plan, 0.5)[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("per_sample", [True, False])
def test_langevin_by_norms_keeps_the_marginal_of_a_gaussian(per_sample):
    """For N(0, v I) in d dimensions δ is 2r²v(1 + O(1/d)), and the variance settles at v/(1 − r²)(1 + O(1/d))."""
    snr, edm, shape = 0.3, EDM(50.0), (32, 1024)
    gaussian = GaussianMixture(torch.zeros(1, shape[1], dtype=torch.float64), 1.0, edm)
    x = predictor_corrector(
        edm,
        np.array([2.0, 1.0]),
        gaussian,
        torch.ones(shape, dtype=torch.float64),
        predictor=None,
        corrections=60,
        snr=snr,
        per_sample=per_sample,
        dtype=torch.float64,
    )
    # 60 steps forget the start: (1 − 2r²)^120 < 1e-10. Four standard errors, and 4/d for norms that vary.
    error = 4 * (2 / x.numel()) ** 0.5 + 4 / shape[1]
    assert float(x.square().mean()) / 5.0 == pytest.approx(1 / (1 - snr**2), rel=error)


def elementwise(x, t):
    """An ε-model whose bits cannot depend on the batch."""
    return torch.tanh(x) + 0.1 * x


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_its_own_norms_a_sample_does_not_depend_on_its_batch(size, dtype):
    times = grids.uniform(VP, 6)
    x = torch.randn(10, 3, 5, 7, generator=torch.Generator().manual_seed(2), dtype=dtype)

    def run(part, **options):
        return predictor_corrector(VP, times, elementwise, x[part], seed=3, ids=part, dtype=dtype, **options)

    numbers = torch.arange(10)
    whole = run(numbers)
    assert torch.equal(torch.cat([run(part) for part in numbers.split(size)]), whole)
    # As published the norms are the batch's, and so is every sample.
    together = run(numbers, per_sample=False)
    apart = torch.cat([run(part, per_sample=False) for part in numbers.split(size)])
    assert (together - apart).abs().max() > 1e-4


def test_batch_norms_and_own_norms_agree_for_a_batch_of_one():
    times = grids.uniform(VP, 4)
    one, other = (
        predictor_corrector(VP, times, elementwise, START[:1], per_sample=own, dtype=torch.float64)
        for own in (True, False)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(3, 1), (4, 2), (2, 3, 5), (5, 64)])
def test_norm(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(_norm(x), x.flatten(1).norm(dim=1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("predictor", [reverse_diffusion_step, ancestral_step])
def test_a_corrector_of_vanishing_step_leaves_the_predictor(predictor):
    times = grids.uniform(VP, 5)
    problem = GaussianMixture(MEANS, 0.3, VP)
    bank = torch.randn(9, 8, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    calls = []

    def counted(x, t):
        calls.append(float(t[0]))
        return problem(x, t)

    out = predictor_corrector(
        VP, times, counted, START, predictor=predictor, snr=1e-14, noise=bank.__getitem__, dtype=torch.float64
    )
    # The predictor draws noises 0, 2, 4, …: before each of its steps but the first one is the corrector's.
    plain = sample(
        predict(VP, times, predictor), problem, START, noise=lambda draw: bank[2 * draw], dtype=torch.float64
    )
    torch.testing.assert_close(out, plain, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(calls, np.repeat(times[:-1], [1, 2, 2, 2, 2]))


def test_where_the_length_of_every_score_is_its_expectation_langevin_is_the_annealed_table():
    """ε and z of length √d for every sample: ‖z‖/‖s‖ = σ."""
    times = grids.uniform(VP, 5)
    z = torch.randn(20, 8, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    bank = 2 * z / z.norm(dim=2, keepdim=True)

    def unit(x, t):
        return 2 * x / x.norm(dim=1, keepdim=True)

    options = {"corrections": 2, "snr": 0.2}
    plan = annealed_langevin(VP, times, reverse_diffusion_step, correct_start=True, **options)
    table = sample(plan, unit, START, noise=bank.__getitem__, dtype=torch.float64)
    out = predictor_corrector(
        VP, times, unit, START, correct_start=True, noise=bank.__getitem__, dtype=torch.float64, **options
    )
    assert plan.nfe == 15
    torch.testing.assert_close(out, table, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_few_steps_stay_finite(n):
    """The authors' β of VP exceed 1 below 20 steps, and their result is NaN; a transition of the process cannot."""
    problem = GaussianMixture(MEANS, 0.3, VP)
    times = grids.uniform(VP, n)
    for plan in (reverse_diffusion(VP, times), ancestral(VP, times), annealed_langevin(VP, times, ancestral_step)):
        assert torch.isfinite(sample(plan, problem, START, dtype=torch.float64)).all()
    assert torch.isfinite(predictor_corrector(VP, times, problem, START, dtype=torch.float64)).all()


@pytest.mark.parametrize("in_rho", [False, True], ids=["t", "rho"])
@pytest.mark.parametrize("process", [VP, SubVP(), VE()], ids=["vp", "sub-vp", "ve"])
def test_rk45_follows_the_exact_solution(process, in_rho):
    problem = GaussianMixture(MEANS, 0.3, process)
    start, calls = process.prior_std * START, 0

    def counted(x, t):
        nonlocal calls
        calls += 1
        return problem(x, t)

    exact = solution(problem, start, 1.0, process.t_end)
    errors = []
    for tolerance in (1e-4, 1e-8):
        calls = 0
        found = rk45(process, counted, start, rtol=tolerance, atol=tolerance, in_rho=in_rho, dtype=torch.float64)
        steps = len(found.times) - 1
        assert found.nfe == calls == 2 + 6 * (steps + found.rejected)
        assert (found.times[0], found.times[-1]) == (1.0, process.t_end) and np.all(np.diff(found.times) < 0)
        errors.append(float((found.x - exact).abs().max()))
    assert errors[0] < 0.05 and errors[1] < 1e-5 and errors[1] < errors[0] / 100


def test_rk45_denoises_by_tweedies_formula():
    problem = GaussianMixture(MEANS, 0.3, VP)
    plain, last = (rk45(VP, problem, START, denoise=d, dtype=torch.float64) for d in (False, True))
    assert last.nfe == plain.nfe + 1 and last.times == plain.times and last.rejected == plain.rejected
    end = torch.full((8,), VP.t_end, dtype=torch.float64)
    torch.testing.assert_close(last.x, problem.x0(plain.x, end), rtol=1e-9, atol=1e-9)


def test_impossible_requests():
    times = grids.uniform(VP, 4)
    with pytest.raises(UserError, match="at least 1 correction"):
        annealed_langevin(VP, times, None, corrections=0)
    with pytest.raises(UserError, match="snr above 0"):
        predictor_corrector(VP, times, elementwise, START, snr=0.0)
    with pytest.raises(UserError, match="not finite"):
        predictor_corrector(VP, times, lambda x, t: x * float("nan"), START)
    with pytest.raises(UserError, match="must be positive"):
        rk45(VP, elementwise, START, rtol=0.0)
    with pytest.raises(UserError, match="not finite at call 0"):
        rk45(VP, lambda x, t: x * float("nan"), START)
    with pytest.raises(UserError, match="divides by zero"):
        ancestral(VP, times, transition=lambda process, t, u: (0.0, 1.0))
