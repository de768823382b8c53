"""The fast ideal denoiser is the plain one in float64, whatever it skips."""

from __future__ import annotations

import pytest
import torch

from fewstep import data, noise, run, schedules, solvers
from fewstep.exact import IdealDenoiser, projection
from fewstep.ideal import LargeIdealDenoiser

LAW = schedules.linear_vp()
IMAGES = data.load("digits").images
START = noise.normal(0, 0, range(12), IMAGES.shape[1:], torch.float64)


class Counted(LargeIdealDenoiser):
    """Counts the rows that are compared with all images."""

    rows = 0

    def _look(self, bar, rho):
        self.rows += len(bar)
        return super()._look(bar, rho)


@pytest.mark.parametrize("rho", [157.0, 20.0, 5.0, 1.0, 0.3, 0.1, 0.01])
def test_it_is_the_plain_one_in_float64(rho):
    t = torch.full((12,), float(LAW.t_of_rho(rho)), dtype=torch.float64)
    x = float(LAW.alpha(t[0])) * IMAGES[:12].double() + float(LAW.sigma(t[0])) * START
    fast, plain = LargeIdealDenoiser(IMAGES, LAW), IdealDenoiser(IMAGES.double(), LAW)
    torch.testing.assert_close(fast.x0(x, t), plain.x0(x, t), rtol=0, atol=2e-5)
    torch.testing.assert_close(rho * fast(x, t), rho * plain(x, t), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("solver", "grid"),
    [("ddim", "uniform"), ("deis-tab3", "quadratic"), ("deis-rhork-rk4", "rho7"), ("dpm-solver-3", "uniform-lambda")],
)
def test_samplers_end_where_they_do_with_the_plain_one(solver, grid):
    plan = solvers.build(solver, LAW, 60, grid)
    fast, plain = Counted(IMAGES, LAW), IdealDenoiser(IMAGES.double(), LAW)
    ends = [run.sample(plan, model, plan.prior_std * START, dtype=torch.float64) for model in (fast, plain)]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)
    assert fast.rows < len(START) * plan.nfe  # it did skip
    assert torch.equal(IMAGES[fast.nearest(ends[0])], projection(IMAGES, ends[1])[0].float())


def test_a_state_that_leaves_its_line_is_looked_at_again():
    model = Counted(IMAGES, LAW)
    t = torch.full((12,), float(LAW.t_of_rho(0.02)), dtype=torch.float64)
    alpha, sigma = float(LAW.alpha(t[0])), float(LAW.sigma(t[0]))
    x = alpha * IMAGES[:12].double() + sigma * START
    assert torch.equal(model.x0(x, t).float(), IMAGES[:12]) and model.rows == 12
    # Once more: nothing is looked at. Then half of the states move to other images, as another sampler's might.
    model.x0(x, t)
    assert model.rows == 12
    x[6:] += alpha * (IMAGES[100:106] - IMAGES[6:12]).double()
    assert torch.equal(model.x0(x, t).float(), IMAGES[[*range(6), *range(100, 106)]]) and model.rows == 18


def test_an_image_that_is_there_twice_is_one_image():
    model = LargeIdealDenoiser(torch.cat([IMAGES[:5], IMAGES[:5]]), LAW)
    plan = solvers.build("ddim", LAW, 40, "quadratic")
    end = run.sample(plan, model, START, dtype=torch.float64)
    torch.testing.assert_close(end.float(), IMAGES[model.nearest(end) % 5], rtol=0, atol=1e-6)
