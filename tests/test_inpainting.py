"""Inpainting and colorization on Gaussian data, where what comes out is known in closed form.

For Gaussian data ε is linear, so a run is an affine function of all noises that enter it. Fed with one unit impulse for
each of them, in one batch, the executor itself gives the exact mean and covariance of what it samples.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.noise import normal, uniform_bits
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, linear_vp
from fewstep.solvers import SOLVERS, build
from fewstep.solvers.ddim import ddim
from fewstep.tasks.inpainting import DRAWS, GREY, colorize, inpaint, psnr, replacement, resampled

CORRELATION = 0.8
TWO = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)


def gaussian(process, covariance):
    """ε of N(0, C): σ (α²C + σ²I)⁻¹ x."""

    def eps(x, t):
        alpha, sigma = float(process.alpha(float(t[0]))), float(process.sigma(float(t[0])))
        matrix = alpha**2 * covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
        return sigma * torch.linalg.solve(matrix, x.flatten(1).T).T.view_as(x)

    return eps


def moments(plan, model, known, mask, start=None):
    """Mean and covariance of what the plan samples with the hook: by an impulse for each noise."""
    n = known.numel()
    size = 1 + n * (1 + plan.draws + plan.nfe)
    impulses = torch.zeros(size, n, dtype=torch.float64)

    def impulse(block):
        z = torch.zeros(size, n, dtype=torch.float64)
        z[1 + n * block : 1 + n * (block + 1)] = torch.eye(n, dtype=torch.float64)
        return z

    values = impulses.clone()
    values[0] = known  # the batch's first member has the known values and no noise
    hook = replacement(plan, values, mask, noise=lambda k: impulse(1 + plan.draws + k))
    found = sample(
        plan,
        model,
        plan.prior_std * impulse(0),
        dtype=torch.float64,
        noise=lambda draw: impulse(1 + draw),
        hook=hook,
    )
    return found[0], found[1:].T @ found[1:]


@pytest.mark.parametrize("name", SOLVERS)
def test_the_known_part_is_kept_exactly(name):
    process = linear_vp()
    plan = build(name, process, 14)
    known = normal(0, 5, range(3), (1, 4, 4), torch.float64)
    mask = torch.tensor([1.0, 0.0]).repeat(8).reshape(1, 4, 4)
    start = normal(0, 6, range(3), (1, 4, 4), torch.float64)
    model = gaussian(process, torch.eye(16, dtype=torch.float64) + 0.5)
    found = sample(plan, model, start, dtype=torch.float64, hook=replacement(plan, known, mask))
    kept = mask.bool().expand(found.shape)
    assert torch.equal(found[kept], known[kept])
    assert not torch.isclose(found[~kept], known[~kept]).any()


@pytest.mark.parametrize("process", [linear_vp(), ContinuousVP(), VE(), EDM(20.0)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", ["ddim", "ddpm-beta-tilde", "deis-rhoab2", "deis-rhork-rk4"])
def test_independent_pixels_are_drawn_as_without_the_known_ones(process, name):
    """Blocks of a covariance that do not see each other: the unknown block's moments are the unconditional ones."""
    block = torch.tensor([[0.7, 0.3], [0.3, 0.5]], dtype=torch.float64)
    covariance = torch.block_diag(block, 2 * block)
    plan = build(name, process, 12, "uniform-lambda" if name != "deis-rhoab2" else "rho7")
    mask = torch.tensor([1, 1, 0, 0])
    known = torch.tensor([0.4, -0.9, 0.0, 0.0], dtype=torch.float64)
    mean, spread = moments(plan, gaussian(process, covariance), known, mask)
    free_mean, free_spread = moments(plan, gaussian(process, covariance), known, 0 * mask)
    assert torch.equal(mean[:2], known[:2]) and not spread[:2].any()
    torch.testing.assert_close(mean[2:], free_mean[2:], rtol=0, atol=1e-12)
    torch.testing.assert_close(spread[2:, 2:], free_spread[2:, 2:], rtol=1e-12, atol=1e-12)


def test_moments_of_ddim_are_those_of_its_table():
    """The impulses against the canonical form: for C = c I the plan is x_K = g x_0, with g a product over the steps."""
    process, c = EDM(20.0), 0.6
    plan = ddim(process, grids.rho7(process, 7))
    rho = process.rho(plan.times)
    gain = math.prod(1.0 + (b - a) * a / (c + a**2) for a, b in pairwise(rho))
    zero = torch.zeros(2, dtype=torch.float64)
    _, spread = moments(plan, gaussian(process, c * torch.eye(2, dtype=torch.float64)), zero, torch.tensor([0, 0]))
    torch.testing.assert_close(spread, (20.0 * gain) ** 2 * torch.eye(2, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_resampling_leads_to_the_conditional_distribution():
    """x₂ given x₁ = y is N(r y, 1 − r²). One pass misses the mean by far; the error falls as one over the repeats.

    The fixed point of the repetition has the error of the finite noise level and steps, which is left at the end.
    """
    process, y = EDM(10.0), 1.5
    model, known = gaussian(process, TWO), torch.tensor([y, 0.0], dtype=torch.float64)

    def miss(n, repeats, eta):
        mean, spread = moments(
            resampled(process, grids.rho7(process, n), repeats, eta), model, known, torch.tensor([1, 0])
        )
        return abs(float(mean[1]) - CORRELATION * y), abs(float(spread[1, 1]) - (1 - CORRELATION**2))

    errors = [miss(40, repeats, 1.0)[0] for repeats in (1, 4, 16, 64)]
    assert errors[0] > 0.4 and errors[3] < 0.01
    assert errors[2] / errors[3] == pytest.approx(4.0, rel=0.15)
    # Its spread is that of the inner steps: more of them, less error.
    assert miss(10, 16, 0.0)[1] > 2 * miss(40, 64, 0.0)[1]
    assert miss(40, 64, 0.0)[1] < 0.05


def test_one_repeat_is_ddim():
    process = linear_vp()
    times = grids.quadratic(process, 9)
    for eta in (0.0, 0.4, 1.0):
        a, b = resampled(process, times, 1, eta).canonical(), ddim(process, times, eta).canonical()
        assert abs(a.a - b.a).max() < 1e-12 and abs(a.C - b.C).max() < 1e-11
        assert abs((a.S**2).sum(1) - (b.S**2).sum(1)).max() < 1e-11
    assert resampled(process, times, 5).nfe == 45


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_going_back_adds_the_noise_between_the_two_levels(eta):
    """State 1 is that of the second call, at ρ_t again: the step's own noise and ρ_t² − ρ_u²."""
    process = EDM(5.0)
    table = resampled(process, grids.check(process, [5.0, 3.0]), 2, eta).canonical()
    step = (eta * 3.0) ** 2 * (1 - (3.0 / 5.0) ** 2)
    assert (table.S[0] ** 2).sum() == pytest.approx(5.0**2 - 3.0**2 + step, rel=1e-12)
    assert table.times.tolist() == [5.0, 5.0, 3.0]


@pytest.mark.parametrize("name", ["ddim", "ddpm", "deis-tab3", "dpmpp-sde"])
def test_the_grey_part_is_kept_and_the_colours_are_drawn(name):
    """For data whose grey and colours are independent, the colours' moments are the unconditional ones."""
    process = linear_vp()
    plan = build(name, process, 12)
    grey = normal(1, 0, range(4), (1, 3, 3)).clamp(-1, 1)
    model = gaussian(process, 0.1 * torch.eye(27, dtype=torch.float64))
    found = colorize(plan, lambda x, t: model(x.double(), t), grey, dtype=torch.float64)
    assert (found.mean(1, keepdim=True) - grey).abs().max() < 1e-7  # grey is float32
    free = sample(plan, model, normal(0, 0, range(4), (3, 3, 3), torch.float64), dtype=torch.float64)
    colours = torch.einsum("dc,bchw->bdhw", GREY, found)[:, 1:]
    torch.testing.assert_close(colours, torch.einsum("dc,bchw->bdhw", GREY, free)[:, 1:], rtol=1e-10, atol=1e-10)


def test_the_basis_of_the_colours_is_orthonormal_with_grey_first():
    assert (GREY @ GREY.T - torch.eye(3)).abs().max() < 1e-15
    assert (GREY[0] - 1 / math.sqrt(3)).abs().max() < 1e-15


def test_the_hooks_noise_meets_no_other():
    """Its counters lie above any that a plan reaches, and are its own for each call."""
    plan = build("ddpm", linear_vp(), 1000)
    assert plan.draws < DRAWS and DRAWS + plan.nfe < 2**32
    ids = torch.arange(2)
    words = torch.cat([uniform_bits(0, draw, ids, 4) for draw in (0, 1, 2, DRAWS, DRAWS + 1, DRAWS + 2)])
    assert len({tuple(row) for row in words.tolist()}) == len(words)


def test_a_sample_is_the_same_in_any_batch():
    process = linear_vp()
    plan = build("ddpm", process, 6)
    model = gaussian(process, torch.eye(9, dtype=torch.float64) + 0.2)
    images = normal(2, 0, range(5), (1, 3, 3)).clamp(-1, 1)
    mask = (torch.arange(9).reshape(1, 3, 3) < 4).long()
    together = inpaint(plan, model, images, mask, seed=3, dtype=torch.float64)
    apart = inpaint(plan, model, images, mask, seed=3, dtype=torch.float64, batch_size=2)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
    one = inpaint(plan, model, images[3:4], mask, seed=3, ids=[3], dtype=torch.float64)
    torch.testing.assert_close(one, together[3:4], rtol=1e-12, atol=1e-12)
    each = inpaint(plan, model, images, mask.expand(5, 1, 3, 3), seed=3, dtype=torch.float64, batch_size=2)
    torch.testing.assert_close(each, apart, rtol=0, atol=0)


def test_the_unknown_values_are_not_used():
    process = linear_vp()
    plan = build("ddim", process, 6)
    model = gaussian(process, torch.eye(9, dtype=torch.float64) + 0.2)
    images = normal(2, 0, range(2), (1, 3, 3)).clamp(-1, 1)
    mask = (torch.arange(9).reshape(1, 3, 3) < 4).long()
    found = inpaint(plan, model, images, mask, dtype=torch.float64)
    assert torch.equal(found, inpaint(plan, model, images * mask, mask, dtype=torch.float64))


def test_psnr():
    a = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    b = a.clone()
    b[1, 0, 0] = 0.2
    mask = torch.tensor([[[1, 1], [0, 0]]])
    assert psnr(a, b).tolist() == [math.inf, pytest.approx(10 * math.log10(4 / 0.02))]
    assert psnr(a, b, mask)[1] == pytest.approx(20 * math.log10(2 / 0.2))


def test_mistakes_get_one_line():
    process = linear_vp()
    plan = build("ddim", process, 4)
    images = torch.zeros(2, 1, 4, 4)

    def model(x, t):
        raise AssertionError("no network call is made for a request that cannot be carried out")

    for shape in [(4, 4), (1, 4, 5), (2, 4, 4), (3, 1, 4, 4), (2, 2, 4, 4)]:
        with pytest.raises(UserError, match=r"a mask of shape \(1, 4, 4\) is needed"):
            inpaint(plan, model, images, torch.ones(shape))
    for value in (0.5, 2.0, -1.0, math.nan):
        with pytest.raises(UserError, match=r"must be 0 \(unknown\) or 1 \(known\)"):
            inpaint(plan, model, images, torch.full((1, 4, 4), value))
    for value in (1.01, -2.0, math.nan, math.inf):
        with pytest.raises(UserError, match=r"must lie in \[-1, 1\]"):
            inpaint(plan, model, images + value, torch.ones(1, 4, 4))
        with pytest.raises(UserError, match=r"must lie in \[-1, 1\]"):
            colorize(plan, model, images + value)
    for shape in [(4, 4), (1, 4, 4), (0, 1, 4, 4)]:
        with pytest.raises(UserError, match="images of shape"):
            inpaint(plan, model, torch.zeros(shape), torch.ones(1, 4, 4))
    with pytest.raises(UserError, match="grey images have one channel"):
        colorize(plan, model, torch.zeros(2, 3, 4, 4))
    with pytest.raises(UserError, match="3 sample numbers do not fit 2 images"):
        inpaint(plan, model, images, torch.ones(1, 4, 4), ids=range(3))
    times = grids.uniform(process, 3)
    with pytest.raises(UserError, match="repeats must be at least 1"):
        resampled(process, times, 0)
    with pytest.raises(UserError, match="eta must lie in"):
        resampled(process, times, 2, 1.5)
