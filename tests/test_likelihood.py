import itertools
import math

import pytest
import torch

from fewstep import exact, noise, schedules, solvers
from fewstep.errors import UserError
from fewstep.models import UNet
from fewstep.tasks import likelihood
from fewstep.tasks.encoding import encoder
from fewstep.tasks.likelihood import log_likelihood, log_likelihood_rk45

VP = schedules.ContinuousVP()
MIXTURE = exact.example(VP)
POINTS = MIXTURE.sample(8, torch.Generator().manual_seed(0))


def at(t, n=8):
    return torch.full((n,), t, dtype=torch.float64)


def states(process, t):
    return POINTS * float(process.alpha(t))


def gap(found, problem, x, t):
    return (found.log_p - problem.log_density(x, at(t, len(x)))).abs().max().item()


def curved(x, t):
    """An ε with a full Jacobian: J = cos(A x) A, row by row."""
    d = x[0].numel()
    A = noise.normal(5, 0, range(d), (d,), x.dtype)
    return torch.sin(x.flatten(1) @ A.T).view_as(x)


def test_exact_divergence_is_the_trace_of_the_jacobian():
    x = noise.normal(0, 0, range(3), (1, 2, 2), torch.float64)
    eps, trace = likelihood.exact_divergence(curved, x, at(0.5, 3))
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda y: curved(y.view(1, 1, 2, 2), None).flatten(), x[i])
        torch.testing.assert_close(trace[i, 0], jacobian.reshape(4, 4).trace())
    torch.testing.assert_close(eps, curved(x, None))


def test_hutchinson_is_unbiased_the_mean_over_all_signs_is_the_trace():
    x = noise.normal(0, 0, range(3), (4,), torch.float64)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
    probes = signs[:, None].expand(-1, 3, -1)
    _, found = likelihood.hutchinson(curved, x, at(0.5, 3), probes)
    _, trace = likelihood.exact_divergence(curved, x, at(0.5, 3))
    assert found.std(1).min() > 0.01
    torch.testing.assert_close(found.mean(1, keepdim=True), trace)


def test_probes_of_both_laws_estimate_the_trace():
    # 4,000 probes of each law: the mean lies within five of its standard errors.
    x = noise.normal(0, 0, range(2), (3,), torch.float64)
    _, trace = likelihood.exact_divergence(curved, x, at(0.5, 2))
    for draw in (noise.normal, likelihood.rademacher):
        probes = torch.stack([draw(0, k, range(2), (3,), torch.float64) for k in range(4000)])
        _, found = likelihood.hutchinson(curved, x, at(0.5, 2), probes)
        error = found.std(1) / math.sqrt(4000)
        assert ((found.mean(1) - trace[:, 0]).abs() < 5 * error).all()


def test_rademacher_probes_are_signs_of_their_own_sample():
    signs = likelihood.rademacher(3, 1, range(200), (5, 4), torch.float64)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean().item()) < 5 / math.sqrt(4000)
    torch.testing.assert_close(likelihood.rademacher(3, 1, [17], (5, 4), torch.float64)[0], signs[17])
    assert (likelihood.rademacher(3, 2, range(200), (5, 4), torch.float64) != signs).any()


@pytest.mark.parametrize(("name", "t_data"), [("vp", 0.0), ("linear", -1.0), ("ve", 0.0), ("sub-vp", 1e-3)])
def test_error_controlled_likelihood_is_the_mixtures_density_to_1e_6(name, t_data):
    process = schedules.PROCESSES[name]()
    problem = exact.GaussianMixture(MIXTURE.means, MIXTURE.std, process)
    x = states(process, t_data)
    found = log_likelihood_rk45(
        process,
        problem,
        x,
        t_data=t_data,
        rtol=1e-8,
        atol=1e-8,
        in_rho=True,
        log_prior=lambda z: problem.log_density(z, at(process.t_max)),
    )
    assert gap(found, problem, x, t_data) < 1e-6
    assert found.log_p.dtype == torch.float64


def test_a_fixed_plan_reaches_the_mixtures_density_to_1e_6():
    plan = encoder("deis-rhork-rk4", VP, 1200, "quadratic")
    found = log_likelihood(VP, plan, MIXTURE, states(VP, 1e-3), log_prior=lambda z: MIXTURE.log_density(z, at(1.0)))
    assert gap(found, MIXTURE, states(VP, 1e-3), 1e-3) < 1e-6
    assert found.nfe == plan.nfe == 1200


@pytest.mark.parametrize(
    ("name", "grid", "order"),
    [
        ("ddim", "rho7", 1),
        ("deis-rhork-heun", "rho7", 2),
        ("deis-tab1", "quadratic", 2),
        ("deis-rhork-kutta3", "rho7", 3),
    ],
)
def test_the_likelihood_of_a_plan_converges_with_the_plans_order(name, grid, order):
    x, errors = states(VP, 1e-3), []
    for nfe in (192, 384, 768):
        plan = encoder(name, VP, nfe, grid)
        found = log_likelihood(VP, plan, MIXTURE, x, log_prior=lambda z: MIXTURE.log_density(z, at(1.0)))
        errors.append((found.log_p - MIXTURE.log_density(x, at(1e-3))).abs().mean().item())
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.3)


def test_gaussian_data_in_closed_form_by_ddim():
    # Data N(0, s²): ε = σ x/v, v = α²s² + σ². DDIM multiplies x̄ by 1 + hα²ρ/v and adds hα²ρd/v to the log-density.
    s, d = 0.5, 3
    problem = exact.GaussianMixture(torch.zeros(1, d, dtype=torch.float64), s, VP)
    plan = encoder("ddim", VP, 7, "quadratic")
    x = 0.4 * noise.normal(0, 0, range(5), (d,), torch.float64)
    found = log_likelihood(VP, plan, problem, x)
    alpha, rho = plan.alpha, plan.sigma / plan.alpha
    rates = (rho[1:] - rho[:-1]) * rho[:-1] / (s**2 + rho[:-1] ** 2)
    code = x * (alpha[-1] / alpha[0]) * math.prod(1.0 + rates)
    torch.testing.assert_close(found.code, code)
    prior = -0.5 * code.square().sum(1) - 0.5 * d * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_p, prior + d * math.log(alpha[-1] / alpha[0]) + d * rates.sum())


def test_smoothed_digits_have_their_closed_form():
    # Four digits, each blurred by the noise of label 150; the exact divergence takes 64 derivatives.
    process = schedules.linear_vp()
    from fewstep import data

    ideal = exact.IdealDenoiser(data.digits().images[:4].double(), process)
    t = 150.0
    clean = ideal.means * float(process.alpha(t))
    x = clean + float(process.sigma(t)) * noise.normal(0, 0, range(4), (1, 8, 8), torch.float64)
    plan = encoder("deis-rhork-kutta3", process, 96, "rho7", t_data=t)
    found = log_likelihood(process, plan, ideal, x, log_prior=lambda z: ideal.log_density(z, at(process.t_max, 4)))
    truth = ideal.log_density(x, at(t, 4))
    assert ((found.log_p - truth).abs() / 64).max() < 1e-4


def test_probes_belong_to_samples_and_their_spread_covers_the_exact_value():
    plan, x = encoder("deis-rhork-heun", VP, 24), states(VP, 1e-3)
    exactly = log_likelihood(VP, plan, MIXTURE, x)
    for kind in ("rademacher", "gaussian"):
        found = log_likelihood(VP, plan, MIXTURE, x, divergence=kind, probes=64, seed=2)
        # The same plan, so that only the probes differ: the state's path is the same.
        torch.testing.assert_close(found.code, exactly.code)
        assert ((found.log_p - exactly.log_p).abs() < 5 * found.probe_error).all()
        part = log_likelihood(VP, plan, MIXTURE, x[5:6], divergence=kind, probes=64, seed=2, ids=[5])
        torch.testing.assert_close(part.log_p, found.log_p[5:6])
    assert exactly.probe_error.isnan().all()


def test_the_network_runs_in_the_dtype_of_the_images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet([1, 8, 8], [8, 8], attention_head_dim=4, norm_num_groups=4).eval()
    process = schedules.linear_vp()
    plan = encoder("deis-tab3", process, 5)
    x = noise.normal(0, 0, range(3), (1, 8, 8))
    found = log_likelihood(process, plan, network, x, divergence="rademacher", probes=2)
    assert found.log_p.shape == found.probe_error.shape == (3,)
    assert found.code.shape == x.shape and found.log_p.dtype == torch.float64
    network, x = network.double(), x.double()
    finer = log_likelihood(process, plan, network, x, divergence="rademacher", probes=2)
    alone = log_likelihood(process, plan, network, x[1:2], divergence="rademacher", probes=2, ids=[1])
    torch.testing.assert_close(alone.log_p, finer.log_p[1:2], rtol=1e-10, atol=1e-10)
    # The scaled state is divided by α(t_max): so much does single precision lose, each time that a state is rounded.
    lost = torch.finfo(torch.float32).eps / float(process.alpha(process.t_max))
    torch.testing.assert_close(found.log_p, finer.log_p, rtol=(plan.nfe + 1) * lost, atol=0)
    by_rk45 = log_likelihood_rk45(process, network, x, rtol=1e-2, atol=1e-2, in_rho=True, divergence="gaussian")
    assert torch.isfinite(by_rk45.log_p).all()


def test_bits_per_dimension_of_uniform_images_are_the_levels():
    # A density that is uniform on the cells of all levels: log p = −d log(2 + δ); bits = log₂ of their number.
    for levels in (17, 256):
        delta = 2.0 / (levels - 1)
        log_p = torch.full((2,), -64 * math.log(2.0 + delta), dtype=torch.float64)
        torch.testing.assert_close(
            likelihood.bits_per_dimension(log_p, 64, levels), torch.full((2,), math.log2(levels), dtype=torch.float64)
        )


def test_dequantised_images_stay_in_their_cells_and_fill_them():
    images = (torch.arange(17.0) / 8 - 1).repeat(40, 2)
    noisy = likelihood.dequantised(images, 17, seed=1)
    steps = (noisy - images) * 8
    assert steps.abs().max() <= 0.5 + 1e-6 and steps.min() < -0.45 and steps.max() > 0.45
    assert steps.mean().abs() < 5 / math.sqrt(12 * steps.numel())
    torch.testing.assert_close(likelihood.dequantised(images[3:4], 17, seed=1, ids=[3]), noisy[3:4])


def test_bits_of_images_are_those_of_their_parts():
    # By hand: dequantise, scale, integrate, count; and with another batch size.
    process = schedules.linear_vp()
    images = (torch.arange(17.0) / 8 - 1).repeat(3, 1)[:, :6]
    problem = exact.IdealDenoiser(images.double(), process)
    options = {"nfe": 24, "probes": 2, "seed": 3}
    found, calls = likelihood.bits_of_images(process, problem, images.double(), 17, **options)
    t = float(process.t_of_rho(0.125 / math.sqrt(12)))
    alpha, plan = float(process.alpha(t)), encoder("deis-rhork-kutta3", process, 24, t_data=t)
    x = alpha * likelihood.dequantised(images.double(), 17, seed=3)
    log_p = log_likelihood(process, plan, problem, x, divergence="rademacher", probes=2, seed=3).log_p
    by_hand = -((log_p + 6 * math.log(alpha)) / 6 + math.log(0.125)) / math.log(2)
    assert calls == 24
    torch.testing.assert_close(found, by_hand)
    parts, _ = likelihood.bits_of_images(process, problem, images.double(), 17, batch_size=2, **options)
    torch.testing.assert_close(parts, found)
    with pytest.raises(UserError, match="not quantised to 256"):
        likelihood.bits_of_images(process, problem, images.double())
    with pytest.raises(UserError, match="rho_data must lie"):
        likelihood.bits_of_images(process, problem, images.double(), 17, rho_data=-1.0)


def test_grey_levels():
    assert likelihood.grey_levels(torch.arange(17.0) / 8 - 1) == 17
    assert likelihood.grey_levels(torch.arange(256.0) / 127.5 - 1) == 256
    with pytest.raises(UserError, match="not quantised"):
        likelihood.grey_levels(torch.rand(1000))
    with pytest.raises(UserError, match="not quantised"):
        likelihood.grey_levels(torch.arange(17.0))


def test_bad_requests_are_one_line():
    plan, x = encoder("ddim", VP, 4), states(VP, 1e-3)
    with pytest.raises(UserError, match="did you mean rademacher"):
        log_likelihood(VP, plan, MIXTURE, x, divergence="radmacher")
    with pytest.raises(UserError, match="at least one probe"):
        log_likelihood(VP, plan, MIXTURE, x, divergence="gaussian", probes=0)
    with pytest.raises(UserError, match="injects noise"):
        log_likelihood(VP, solvers.build("ddpm", VP, 4), MIXTURE, x)
    with pytest.raises(UserError, match=r"build it with encoder\(\)"):
        log_likelihood(VP, solvers.build("ddim", VP, 4), MIXTURE, x)
    with pytest.raises(UserError, match="finite states"):
        log_likelihood(VP, plan, MIXTURE, x * math.inf)
    with pytest.raises(UserError, match="no gradient"):
        log_likelihood(VP, plan, torch.no_grad()(MIXTURE), x)
    with pytest.raises(UserError, match="the model returned shape"):
        log_likelihood(VP, plan, lambda x, t: x[:, :2], x)
    with pytest.raises(UserError, match="infinite at t = 0"):
        log_likelihood_rk45(VP, MIXTURE, x, t_data=0.0)
