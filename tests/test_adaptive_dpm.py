"""Adaptive DPM-Solver: what its tolerance promises, what it counts, and what its controllers do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewstep.adaptive.dpm_solver import PID, Elementary, dpm_solver_adaptive, largest_rms, rms
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture, reference
from fewstep.run import sample
from fewstep.schedules import EDM, ContinuousVP, linear_vp
from fewstep.solvers.ddim import ddim
from fewstep.solvers.dpm_solver import dpm_solver_singlestep

VP, DISCRETE, SIGMA = ContinuousVP(), linear_vp(), EDM()
ENDS = {"vp": (VP, 0.02), "discrete": (DISCRETE, 20.0), "edm": (SIGMA, 0.1)}
MEANS = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EXACT = {"dtype": torch.float64}


def problem(process):
    return GaussianMixture(MEANS, 0.5, process), process.prior_std * START


class Counted:
    """A model that counts its calls."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.model(x, t)


def error(process, end, tolerance, order, data, **options):
    model, x = problem(process)
    truth = TRUTHS.setdefault((process, end), reference(model, process, x, process.t_max, end))
    found = dpm_solver_adaptive(
        process, model, x, order, data, atol=tolerance, rtol=tolerance, t_end=end, **options, **EXACT
    )
    return (found.x - truth).square().mean().sqrt().item(), found


TRUTHS: dict = {}


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("process", "end"), ENDS.values(), ids=ENDS)
def test_the_error_follows_the_tolerance(process, end, order, data):
    """Local errors are held at the tolerance: the result's error stays within four times that here."""
    loose, fine = (error(process, end, tolerance, order, data) for tolerance in (1e-2, 1e-4))
    assert loose[0] < 4e-2 and fine[0] < 4e-4 and fine[0] < 0.1 * loose[0]
    assert fine[1].nfe > loose[1].nfe


def test_tight_tolerances_reach_the_exact_solution():
    for data in (False, True):
        found, _ = error(VP, 0.02, 1e-7, 3, data)
        assert found < 1e-5


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("process", "end"), ENDS.values(), ids=ENDS)
def test_on_its_own_steps_it_is_the_singlestep_method(process, end, order, data):
    model, x = problem(process)
    found = dpm_solver_adaptive(process, model, x, order, data, t_end=end, **EXACT)
    assert found.times[0] == process.t_max and found.times[-1] == end
    plan = dpm_solver_singlestep(process, np.array(found.times), order, data)
    torch.testing.assert_close(found.x, sample(plan, model, x, **EXACT), rtol=1e-9, atol=1e-9)
    assert plan.nfe == found.nfe - (order - 1) * found.rejected


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("h", [0.01, 8.0])
def test_calls_are_counted(order, h):
    """A step costs ``order`` calls, but a rejected one keeps its first, and a clean end costs one more."""
    for process, end, clean in ((VP, 0.02, 0), (DISCRETE, None, 1)):
        model, x = problem(process)
        model = Counted(model)
        found = dpm_solver_adaptive(process, model, x, order, h=h, t_end=end, **EXACT)
        accepted = len(found.times) - 1 - clean
        assert found.nfe == model.calls == order * accepted + (order - 1) * found.rejected + clean
        assert all(t > u for t, u in zip(found.times[:-1], found.times[1:], strict=True))
        assert (found.rejected > 0) or h < 1


def test_the_first_step_hardly_matters():
    """A first step of the whole length is rejected until it is short enough."""
    one, other = (error(VP, 0.02, 1e-5, 3, False, h=h) for h in (0.01, 20.0))
    assert other[1].rejected >= 1
    assert max(one[0], other[0]) < 1e-3


def test_a_clean_end_is_a_ddim_step():
    model, x = problem(DISCRETE)
    whole = dpm_solver_adaptive(DISCRETE, model, x, **EXACT)
    part = dpm_solver_adaptive(DISCRETE, model, x, t_end=0.0, **EXACT)
    assert whole.times == (*part.times, -1.0)
    last = sample(ddim(DISCRETE, np.array([0.0, -1.0])), model, part.x, **EXACT)
    torch.testing.assert_close(whole.x, last, rtol=0, atol=1e-12)


def test_every_sample_meets_the_tolerance_in_the_default_norm():
    e = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert largest_rms(e) == pytest.approx(math.sqrt(12.5)) and rms(e) == pytest.approx(math.sqrt(6.25))
    assert largest_rms(e[:, :, None]) == pytest.approx(math.sqrt(12.5))
    many = torch.randn(100, 7, 5, generator=torch.Generator().manual_seed(2))
    assert all(rms(e) <= largest_rms(e) for e in many)


def test_single_precision_follows_double():
    model, x = problem(VP)
    one = dpm_solver_adaptive(VP, model, x, t_end=0.02)
    two = dpm_solver_adaptive(VP, model, x, t_end=0.02, **EXACT)
    assert one.x.dtype == torch.float32
    torch.testing.assert_close(one.x.double(), two.x, rtol=0, atol=1e-3)


def test_elementary_controller():
    control = Elementary(3, 0.9)
    assert control(1.0) == (True, pytest.approx(0.9))
    assert control(8.0) == (False, pytest.approx(0.45))
    assert control(0.0) == (True, math.inf)


def test_pid_controller():
    # With the integral term alone it is the elementary controller behind an arctangent.
    for e in (1e-6, 0.3, 1.0, 5.0, 1e9):
        accepted, factor = PID(2)(e)
        assert factor == pytest.approx(1 + math.atan(e**-0.5 - 1), rel=1e-5)
        assert 1 - math.pi / 4 <= factor < 1 + math.pi / 2 and accepted == (factor >= 0.81)
    # A steady error moves the step by the integral term only, whatever the others are.
    control = PID(2, proportional=0.4, integral=0.3, derivative=0.1)
    for _ in range(3):
        factor = control(0.5)[1]
        assert factor == pytest.approx(1 + math.atan(0.5**-0.15 - 1), rel=1e-6)
    # Rejected errors are not remembered.
    control, fresh = PID(2, proportional=0.4), PID(2, proportional=0.4)
    control(0.5), fresh(0.5)
    assert control(100.0)[0] is False
    assert control(0.7) == fresh(0.7)


def test_the_pid_controller_solves_too():
    found, result = error(SIGMA, 0.1, 1e-5, 3, False, controller=PID(3), norm=rms)
    assert found < 1e-2 and result.nfe > 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": 1}, "orders 2 and 3"),
        ({"atol": 0.0}, "must be positive"),
        ({"rtol": -1.0}, "must be positive"),
        ({"h": 0.0}, "must be positive"),
        ({"max_steps": 3}, "no end after 3 steps"),
        ({"t_start": 0.1, "t_end": 0.2}, "decrease strictly"),
    ],
)
def test_refusals(options, says):
    model, x = problem(VP)
    with pytest.raises(UserError, match=says):
        dpm_solver_adaptive(VP, model, x, **options)


def test_a_broken_model_is_named():
    with pytest.raises(UserError, match="not finite"):
        dpm_solver_adaptive(VP, lambda x, t: x * math.nan, START)
