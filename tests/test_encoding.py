import math

import numpy as np
import pytest
import torch

from fewstep import exact, noise, schedules, solvers
from fewstep.errors import UserError
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.tasks import encoding

VP = schedules.ContinuousVP()
MIXTURE = exact.example(VP)
CODES = noise.normal(1, 0, range(8), (4,), torch.float64)
REVERSIBLE = [
    *("ddim", "euler", "fon", "pndm-s", "pndm-f", "ei-score", "ei-eps", "ge", "edm-heun", "ipndm-4", "plms"),
    *("deis-tab1", "deis-tab2", "deis-tab3", "deis-rhoab1", "deis-rhoab2", "deis-rhoab3"),
    *("deis-rhork-midpoint", "deis-rhork-heun", "deis-rhork-kutta3", "deis-rhork-heun3", "deis-rhork-rk4"),
    *("dpm-solver-2", "dpm-solver-3", "dpm-solver-2m", "dpm-solver-3m", "dpmpp-2s", "dpmpp-3s", "dpmpp-2m", "dpmpp-3m"),
    *("unipc-2", "unipc-3", "reverse-diffusion-ode"),
]


def rms(x):
    return x.square().mean().sqrt().item()


def data(t_data=1e-3):
    return exact.solution(MIXTURE, CODES, VP.t_max, t_data)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_encoder_converges_to_the_exact_code(name):
    end = sample(encoding.encoder(name, VP, 320), MIXTURE, data(), dtype=torch.float64)
    plan = encoding.encoder(name, VP, 160)
    t = float(plan.times[-1])
    code = CODES if t == VP.t_max else exact.solution(MIXTURE, CODES, VP.t_max, t)
    coarse, fine = rms(sample(plan, MIXTURE, data(), dtype=torch.float64) - code), rms(end - code)
    assert fine < 0.15
    # Gradient estimation's γ = 2 makes its first-order error change sign about here.
    assert name == "ge" or fine < coarse / 1.7


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("deis-rhork-heun", 2), ("deis-rhork-kutta3", 3)])
def test_encode_then_decode_returns_the_images_with_the_order_of_the_solver(name, order):
    means = torch.tensor([[-0.5, 0.2], [0.4, 0.5], [0.3, -0.6]], dtype=torch.float64)
    problem = exact.GaussianMixture(means, 0.1, VP)
    images = problem.sample(16, torch.Generator().manual_seed(0)).clamp(-1, 1)
    errors = []
    for nfe in (120, 240, 480):
        there, back = encoding.encoder(name, VP, nfe, "rho7"), encoding.decoder(name, VP, nfe, "rho7")
        codes = encoding.encode(there, problem, images, dtype=torch.float64)
        errors.append(rms(encoding.decode(back, problem, codes, dtype=torch.float64) - images))
    assert math.log2(errors[1] / errors[2]) > order - 0.25


def test_a_reversed_step_of_ddim_is_equation_14():
    process = schedules.linear_vp()
    times = np.array([800.0, 500.0, 100.0, 0.0])
    plan = encoding.encoder("ddim", process, 3, times)
    rho, alpha = process.rho(times[::-1]), process.alpha(times[::-1])
    np.testing.assert_array_equal(plan.times, times[::-1])
    form = plan.canonical()
    np.testing.assert_allclose(form.C[-1], alpha[-1] * np.diff(rho), rtol=1e-12)
    np.testing.assert_allclose(form.a[-1], alpha[-1] / alpha[0], rtol=1e-12)


def test_reversing_multistep_weights_is_adams_bashforth_on_rising_levels():
    process = schedules.EDM()
    times = np.array([8.0, 4.0, 2.0, 1.0])
    C = encoding.encoder("deis-rhoab1", process, 3, times).canonical().C[-1]
    # Euler from 1 to 2; then ε extrapolated by the line through its last two values.
    expected = np.array([1.0, 0.0, 0.0])
    for node, before, after in ((2.0, 1.0, 4.0), (4.0, 2.0, 8.0)):
        h, gap = after - node, node - before
        slope = h * h / (2 * gap)
        k = [1.0, 2.0, 4.0].index(node)
        expected[k] += h + slope
        expected[k - 1] -= slope
    np.testing.assert_allclose(C, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["dpm-solver-2", "dpm-solver-3m", "dpmpp-3s", "dpmpp-2m", "unipc-3"])
def test_methods_in_log_rho_are_exact_for_constant_noise(name):
    process, times = schedules.EDM(), np.array([8.0, 5.0, 3.0, 1.5, 1.0])
    plan = encoding.encoder(name, process, 20, times)
    # A constant ε: every consistent method gives x̄ + (ρ_T − ρ_0) ε.
    x = torch.ones(1, 1, dtype=torch.float64)
    end = sample(plan, lambda x, t: torch.full_like(x, 0.3), x, dtype=torch.float64)
    assert end.item() == pytest.approx(1.0 + 7.0 * 0.3, rel=1e-12)


def test_first_order_methods_are_one_table_in_this_direction_too():
    times = np.geomspace(20.0, 0.1, 6)
    process = schedules.EDM()
    ddim = encoding.encoder("ddim", process, 5, times)
    for name in ("ei-eps", "ipndm-1", "deis-tab0", "deis-rhork-euler"):
        assert difference(ddim, encoding.encoder(name, process, 5, times)) < 1e-9


def test_quadrature_of_a_discrete_process_stops_at_its_labels():
    process = schedules.linear_vp()
    times = np.array([900.0, 600.5, 300.0, 0.0])
    plan = encoding.encoder("deis-tab1", process, 3, times)
    # The last step integrates, over ρ, the line in t through labels 600.5 and 300; by a fine trapezoidal rule:
    rho = np.linspace(process.rho(600.5), process.rho(900.0), 2_000_001)
    line = (process.t_of_rho(rho) - 300.0) / 300.5
    weight = np.trapezoid(line, rho)
    _, E, _ = plan.table()
    assert E[-1, 2] == pytest.approx(float(process.alpha(900.0)) * weight, rel=1e-9)


def test_every_other_solver_says_why_it_has_no_encoder():
    for name in set(solvers.SOLVERS) - set(REVERSIBLE):
        try:
            plan = encoding.encoder(name, VP, 60)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        error = rms(sample(plan, MIXTURE, data(), dtype=torch.float64) - CODES)
        assert error < 0.5, name  # what is not refused encodes


def test_the_process_seen_from_the_data_is_a_process():
    for process in (schedules.linear_vp(), VP, schedules.SubVP(), schedules.VE(), schedules.EDM()):
        mirror = encoding.mirrored(process)
        t = np.linspace(mirror.t_min, mirror.t_max, 12)[1:-1] + 0.123 * (process.t_max - process.t_min) / 1000
        assert np.all(np.diff(mirror.rho(t)) > 0)
        np.testing.assert_allclose(mirror.t_of_rho(mirror.rho(t)), t, rtol=1e-7, atol=1e-9)
        h = 1e-6 * (process.t_max - process.t_min)
        np.testing.assert_allclose((mirror.rho(t + h) - mirror.rho(t - h)) / (2 * h), mirror.drho(t), rtol=1e-4)
        slope = (mirror.log_alpha(t + h) - mirror.log_alpha(t - h)) / (2 * h)
        np.testing.assert_allclose(slope, mirror.dlog_alpha(t), rtol=1e-4, atol=1e-9)


def test_gaussian_data_has_a_linear_encoder():
    # Data N(0, s²): x̄ grows as √(s² + ρ²) along the flow, so that codes have variance α²(s² + ρ²).
    s = 0.5
    problem = exact.GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), s, VP)
    images = 0.3 * noise.normal(0, 0, range(5), (3,), torch.float64)
    plan = encoding.encoder("deis-rhork-rk4", VP, 800)
    found = encoding.encode(plan, problem, images, dtype=torch.float64)
    low, high = VP.rho(1e-3), VP.rho(1.0)
    factor = float(VP.alpha(1.0)) * math.sqrt((s**2 + high**2) / (s**2 + low**2))
    torch.testing.assert_close(found, factor * images, rtol=1e-6, atol=0)


def test_slerp_keeps_lengths_and_ends():
    a, b = (noise.normal(seed, 0, range(6), (2, 3), torch.float64) for seed in (0, 1))
    a, b = (c / c.flatten(1).norm(dim=1).view(-1, 1, 1) for c in (a, b))
    torch.testing.assert_close(encoding.slerp(a, b, 0.0), a)
    torch.testing.assert_close(encoding.slerp(a, b, 1.0), b)
    for w in (0.1, 0.5, 0.9):
        found = encoding.slerp(a, b, w)
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(6, dtype=torch.float64))
        angle = torch.arccos((a.flatten(1) * b.flatten(1)).sum(1))
        torch.testing.assert_close(torch.arccos((found * a).flatten(1).sum(1)), w * angle, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(encoding.slerp(a, a, 0.3), a)
    with pytest.raises(UserError, match="opposite"):
        encoding.slerp(a, -a, 0.5)
    with pytest.raises(UserError, match="one shape"):
        encoding.slerp(a, b[:2], 0.5)


def test_interpolation_grid_has_its_corners():
    corners = noise.normal(0, 0, range(4), (1, 2, 2), torch.float64)
    found = encoding.interpolation_grid(corners, 3)
    torch.testing.assert_close(found[[0, 2, 6, 8]], corners)
    torch.testing.assert_close(found[1:2], encoding.slerp(corners[:1], corners[1:2], 0.5))
    with pytest.raises(UserError, match="four corners"):
        encoding.interpolation_grid(corners[:3], 3)


def test_reconstruction_error_counts_grey_levels_from_0_to_1():
    a, b = -torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    torch.testing.assert_close(encoding.reconstruction_error(a, b), torch.ones(2))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.full((2, 1, 8, 8), 1.5), r"must lie in \[-1, 1\]"),
        (torch.full((2, 1, 8, 8), math.nan), r"must lie in \[-1, 1\]"),
        (torch.zeros(2, 3, 8, 8), r"takes \(1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), "a batch"),
    ],
)
def test_bad_images_are_one_line(images, says):
    def model(x, t):
        return x

    model.config = {"shape": [1, 8, 8]}
    plan = encoding.encoder("ddim", VP, 4)
    with pytest.raises(UserError, match=says):
        encoding.encode(plan, model, images)


def test_plans_that_encode_nothing_are_one_line():
    images = torch.zeros(1, 4)
    with pytest.raises(UserError, match="injects noise"):
        encoding.encoder("ddpm", VP, 10)
    with pytest.raises(UserError, match="injects noise"):
        encoding.encoder("ddim", VP, 10, eta=0.5)
    with pytest.raises(UserError, match="injects noise"):
        encoding.encode(solvers.build("ddpm", VP, 10), MIXTURE, images)
    with pytest.raises(UserError, match=r"build it with encoder\(\)"):
        encoding.encode(encoding.decoder("ddim", VP, 10), MIXTURE, images)
    with pytest.raises(UserError, match=r"build it with decoder\(\)"):
        encoding.decode(encoding.encoder("ddim", VP, 10), MIXTURE, images)
    with pytest.raises(UserError, match="noise to data only"):
        encoding.encoder("rk4", VP, 16)
    with pytest.raises(UserError, match="clean data"):
        encoding.encoder("ddim", schedules.linear_vp(), 10, "leading")
    with pytest.raises(UserError, match="cannot leave clean data"):
        encoding.encoder("unipc-3", VP, 10, t_data=0.0)
    with pytest.raises(UserError, match="did you mean ddim"):
        encoding.encoder("dddim", VP, 10)
