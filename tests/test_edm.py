"""EDM's methods on any clock, iDDPM's levels, and the wrappers that clip or threshold the denoised value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, reference
from fewstep.models.protocol import clipped, thresholded
from fewstep.plan import difference
from fewstep.run import sample
from fewstep.schedules import EDM, VE, BrownianVE, ContinuousVP, Process, linear_vp
from fewstep.solvers.ddim import ddim
from fewstep.solvers.deis import rho_rk
from fewstep.solvers.edm import edm_heun, edm_rk

VP = ContinuousVP()
CLOCKS = {"edm": EDM(), "vp": VP, "brownian": BrownianVE(), "ve": VE(0.002, 200.0)}
PROCESSES = {"vp": VP, "discrete": linear_vp(), "edm": EDM()}
MEANS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, 0.5, VP)
BEGIN, END = float(VP.t_of_rho(5.0)), 0.05
TRUTH = reference(MIXTURE, VP, START, BEGIN, END)


def same(one, other) -> bool:
    """Equal canonical tables, to the rounding of weights as large as 1/α(T)."""
    return difference(one, other) < 1e-11 * max(1.0, float(np.abs(one.canonical().C).max()))


# --- the alpha family -----


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_on_edms_clock_the_methods_are_runge_kutta_in_rho(process, n):
    times = grids.rho7(process, n)
    assert same(edm_rk(process, times, order=1), ddim(process, times))
    assert same(edm_rk(process, times, alpha=1.0), rho_rk(process, times, "heun"))
    assert same(edm_rk(process, times, alpha=0.5), rho_rk(process, times, "midpoint"))
    assert same(edm_heun(process, times), rho_rk(process, times, "heun"))


def slope(order, alpha, clock):
    errors = []
    for n in (160, 320):
        plan = edm_rk(VP, grids.uniform_lambda(VP, n, t_start=BEGIN, t_end=END), order, alpha, clock)
        errors.append((sample(plan, MIXTURE, START, dtype=torch.float64) - TRUTH).square().mean().sqrt().item())
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_order_of_convergence_on_every_clock(clock):
    assert slope(1, 1.0, clock) == pytest.approx(1.0, abs=0.2)
    for alpha in (0.3, 0.5, 2 / 3, 1.0):
        assert slope(2, alpha, clock) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("alpha", [1e-3, 0.3, 0.5, 1.0])
def test_second_order_conditions(alpha):
    """With ε = ρ̄ᵏ on EDM's clock a step integrates k = 0 and 1 exactly, k = 2 only if α = 2/3."""
    t = np.array([3.0, 1.0])
    for a, exact in ((alpha, False), (2 / 3, True)):
        plan = edm_rk(EDM(), t, alpha=a)
        weights, at = plan.canonical().C[-1], plan.times[:-1]
        for k in range(3):
            moment = (t[1] ** (k + 1) - t[0] ** (k + 1)) / (k + 1)
            assert (abs(weights @ at**k - moment) < 1e-12 * 3**k / a) == (k < 2 or exact)


# --- clocks -----


class Changed(Process):
    """Another clock with c times the scale of ``inner``, which shows its noise levels at a + b t."""

    def __init__(self, inner: Process, a: float, b: float, c: float) -> None:
        self.inner, self.a, self.b, self.c = inner, a, b, c

    def _t(self, t):
        return (np.asarray(t) - self.a) / self.b

    def log_alpha(self, t):
        return self.inner.log_alpha(self._t(t)) + np.log(self.c)

    def rho(self, t):
        return self.inner.rho(self._t(t))

    def t_of_rho(self, rho):
        return self.a + self.b * self.inner.t_of_rho(rho)

    def dlog_alpha(self, t):
        return self.inner.dlog_alpha(self._t(t)) / self.b

    def drho(self, t):
        return self.inner.drho(self._t(t)) / self.b


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("options", [{"order": 1}, {"alpha": 0.6}, {"alpha": 1.0, "churn": 3.0}])
def test_units_of_time_and_of_the_state_do_not_matter(clock, options):
    """Runge–Kutta methods commute with affine changes of t and constant factors of x."""
    times = grids.uniform_lambda(VP, 9, t_end=END)
    assert same(edm_rk(VP, times, clock=clock, **options), edm_rk(VP, times, clock=Changed(clock, 2, 5, 3), **options))


def test_other_changes_of_clock_matter_and_vanish_at_second_order():
    """What a clock does with a constant ε: only σ(t) = t, s(t) = 1 is exact, the others err like 1/n²."""
    defects = {}
    for name, clock in CLOCKS.items():
        for n in (200, 400):
            times = grids.uniform_lambda(VP, n, t_end=END)
            last, rho = edm_rk(VP, times, clock=clock).canonical(), VP.rho(times)
            kept = last.a[-1] * VP.alpha(1.0) / VP.alpha(END) - 1.0  # 0 where x̄ is left alone
            moved = last.C[-1].sum() / VP.alpha(END) / (rho[-1] - rho[0]) - 1.0  # 0 where Σ C is the length in ρ
            defects[name, n] = abs(kept), abs(moved)
    assert max(defects["edm", 400]) < 1e-11
    for name in ("brownian", "ve"):  # s = 1: x̄ is left alone, but the quadrature is not exact
        assert defects[name, 400][0] < 1e-11 and defects[name, 200][1] > 1e-6
        assert np.log2(defects[name, 200][1] / defects[name, 400][1]) == pytest.approx(2.0, abs=0.1)
    for k in (0, 1):
        assert np.log2(defects["vp", 200][k] / defects["vp", 400][k]) == pytest.approx(2.0, abs=0.1)


def test_churn_adds_the_same_noise_on_every_clock():
    times = grids.rho7(VP, 6)
    first = [edm_rk(VP, times, order=1, clock=clock, churn=2.0) for clock in CLOCKS.values()]
    for plan in first:
        assert plan.draws == 6
        np.testing.assert_allclose(plan.times, first[0].times, rtol=1e-12)
    # The second call's state carries the noise of level √(ρ̂² − ρ²) that raised it.
    rho, raised = VP.rho(times)[1], VP.rho(first[0].times)[1]
    assert raised == pytest.approx(rho * (1 + 2.0 / 6), rel=1e-9)
    for plan in first:
        before_call = plan.canonical().S[plan.inputs[1] - 1, 1]
        expected = float(VP.alpha(plan.times[1])) * np.sqrt(raised**2 - rho**2)
        assert before_call == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": 3}, "order 1"),
        ({"alpha": 0.0}, "alpha must lie"),
        ({"alpha": 1.5}, "alpha must lie"),
        ({"churn": -1.0}, "churn"),
        ({"s_noise": -1.0}, "s_noise"),
        ({"clock": VE()}, "clock VE never shows the noise level rho = 0"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(UserError, match=says):
        edm_rk(VP, np.array([1.0, 0.5, 0.0]), **options)


# --- the levels of the other columns of the table -----


def test_iddpm_levels_are_edms_recursion():
    """EDM, Table 1: u_{j−1}² + 1 = (u_j² + 1)/max(ᾱ_{j−1}/ᾱ_j, C₁), ᾱ_j = sin²(πj/2M(1 + C₂)), from u_M = 0."""
    bar = np.sin(0.5 * np.pi * np.arange(1001) / (1000 * 1.008)) ** 2
    u = np.zeros(1001)
    for j in range(1000, 0, -1):
        u[j - 1] = np.sqrt((u[j] ** 2 + 1) / max(bar[j - 1] / bar[j], 1e-3) - 1)
    process = EDM(sigma_max=1e6)
    inside = u[(u >= 0.002) & (u <= 1e6)]
    np.testing.assert_allclose(grids.iddpm(process, len(inside)), np.append(inside, 0.0), rtol=1e-9)
    for n in (1, 2, 7, 100):
        times = grids.iddpm(EDM(), n)
        levels = u[(u >= 0.002) & (u <= 80)]
        chosen = [int(np.floor(i * (len(levels) - 1) / max(n - 1, 1) + 0.5)) for i in range(n)]
        np.testing.assert_allclose(times, np.append(levels[chosen], 0.0), rtol=1e-9)
    with pytest.raises(UserError, match="levels between these ends"):
        grids.iddpm(EDM(), 1001)


def test_ve_of_edm_has_the_noise_of_brownian_motion():
    process = BrownianVE(100.0)
    t = np.linspace(1.0, 9000.0, 7)
    np.testing.assert_allclose(process.g2(t), 1.0, rtol=1e-12)  # dx = dW
    # Its published grid, geometric in t = σ², is uniform in λ.
    times = grids.uniform_lambda(process, 9, t_last=0.02**2)
    np.testing.assert_allclose(times[:-1], np.geomspace(100.0**2, 0.02**2, 9), rtol=1e-12)


# --- the denoised value -----


def denoised(model, process, x, t):
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (x - sigma * model(x, torch.full((len(x),), t, dtype=torch.float64))) / alpha


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_clipping_and_thresholding(t):
    x = 3 * START
    plain = denoised(MIXTURE, VP, x, t)
    tolerance = 1e-12 / float(VP.alpha(t))
    torch.testing.assert_close(
        denoised(clipped(MIXTURE, VP, 0.7), VP, x, t), plain.clamp(-0.7, 0.7), rtol=0, atol=tolerance
    )
    quantile = 0.6
    s = np.quantile(plain.abs().numpy(), quantile, axis=1).clip(min=1.0)[:, None]
    assert s.max() > 1.0
    expected = torch.tensor(np.clip(plain.numpy(), -s, s) / s)
    torch.testing.assert_close(denoised(thresholded(MIXTURE, VP, quantile), VP, x, t), expected, rtol=0, atol=tolerance)


def test_wrappers_leave_data_inside_alone():
    small = GaussianMixture(0.05 * MEANS, 0.01, VP)
    times = grids.uniform_lambda(VP, 12)
    for wrapped in (clipped(small, VP), thresholded(small, VP)):
        one, other = (sample(ddim(VP, times), m, START, dtype=torch.float64) for m in (small, wrapped))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_threshold_is_of_one_sample_and_ends_within_one():
    x, times = torch.cat([START, 5 * START]), grids.uniform_lambda(VP, 10)
    model = thresholded(MIXTURE, VP, 0.9)
    together = sample(ddim(VP, times), model, x, dtype=torch.float64)
    alone = sample(ddim(VP, times), model, x[:3], dtype=torch.float64)
    torch.testing.assert_close(together[:3], alone, rtol=0, atol=1e-12)
    clean = denoised(model, VP, x, 0.3)
    assert clean.abs().max() <= 1 + 1e-12 < denoised(MIXTURE, VP, x, 0.3).abs().max()


def test_a_clock_that_does_not_show_a_level_is_refused():
    process = EDM(400.0)
    with pytest.raises(UserError, match="never shows the noise level"):
        edm_rk(process, grids.rho7(process, 8), order=1, clock=linear_vp())
