"""Time grids: each is the formula it is named after, and what is not a grid is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fewstep import grids
from fewstep.errors import UserError
from fewstep.schedules import PROCESSES, ContinuousVP, linear_vp

VP, DISCRETE = ContinuousVP(), linear_vp()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 50, 333, 1000])
@pytest.mark.parametrize("name", sorted(grids.GRIDS))
@pytest.mark.parametrize("process", [make() for make in PROCESSES.values()], ids=list(PROCESSES))
def test_a_grid_or_a_clear_refusal(process, name, n):
    try:
        times = grids.build(name, process, n)
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return
    assert len(times) == n + 1 and np.all(np.diff(times) < 0)
    assert times[-1] == process.t_end and times[0] <= process.t_max


def test_uniform_and_powers():
    np.testing.assert_allclose(grids.uniform(VP, 4), np.linspace(1, 1e-3, 5), rtol=1e-15)
    np.testing.assert_allclose(np.diff(np.sqrt(grids.quadratic(VP, 9))), (1e-3**0.5 - 1) / 9, rtol=1e-12)
    np.testing.assert_allclose(grids.power_t(VP, 6, power=1), grids.uniform(VP, 6), rtol=1e-15)
    # On labels, equal steps in √(t + 1): the clean end is the origin.
    np.testing.assert_allclose(np.sqrt(grids.quadratic(DISCRETE, 10) + 1), np.sqrt(1000) * np.arange(10, -1, -1) / 10)


def test_uniform_on_labels_is_trailing_where_n_divides():
    np.testing.assert_allclose(grids.uniform(DISCRETE, 20), grids.trailing(DISCRETE, 20), atol=1e-12)


def test_spacing_in_rho():
    times = grids.power_rho(VP, 12, power=7)
    steps = np.diff(VP.rho(times) ** (1 / 7))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-8)
    steps = np.diff(VP.lambda_(grids.uniform_lambda(VP, 12)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-8)


def test_clean_end_is_appended():
    times = grids.rho7(DISCRETE, 10)
    assert times[-1] == -1
    rho = DISCRETE.rho(times[:-1])
    np.testing.assert_allclose(rho[-1], DISCRETE.rho(0), rtol=1e-8)
    steps = np.diff(rho ** (1 / 7))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_log_linear():
    rho = DISCRETE.rho(grids.log_linear(DISCRETE, 10))
    np.testing.assert_allclose(rho[:-1], np.geomspace(40, 0.06, 10), rtol=1e-8)
    assert rho[-1] == 0


def test_ddim_labels():
    np.testing.assert_array_equal(grids.leading(DISCRETE, 10), [*range(900, -1, -100), -1])
    np.testing.assert_array_equal(grids.leading(DISCRETE, 10, offset=1), [*range(901, 0, -100), -1])
    np.testing.assert_array_equal(grids.trailing(DISCRETE, 10), [*range(999, 98, -100), -1])
    np.testing.assert_array_equal(grids.linspace(DISCRETE, 4), [999, 666, 333, 0, -1])
    labels = grids.ddim_quadratic(DISCRETE, 5)
    np.testing.assert_array_equal(labels[:-1], [int(v**2) for v in np.linspace(0, 800**0.5, 5)][::-1])


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([1.0], "two times"),
        ([1.0, 1.0, 0.5], "decrease strictly"),
        ([0.5, 1.0], "decrease strictly"),
        ([1.0, np.nan], "finite"),
        ([2.0, 0.5], r"lie in \[0, 1\]"),
        ([1.0, -0.5], r"lie in \[0, 1\]"),
        ([1.0, 1e-200], "0 or at least 1e-60"),
    ],
)
def test_what_is_not_a_grid(times, says):
    with pytest.raises(UserError, match=says):
        grids.check(VP, np.array(times))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: grids.build("quadratik", VP, 5), "did you mean quadratic"),
        (lambda: grids.build("uniform", VP, 5, power=3), "unexpected keyword"),
        (lambda: grids.build("uniform", VP, 0), "at least one step"),
        (lambda: grids.build("power-t", VP, 5, power=-1), "positive"),
        (lambda: grids.build("power-rho", VP, 5, power=0), "positive"),
        (lambda: grids.build("leading", VP, 5), "continuous"),
        (lambda: grids.build("leading", DISCRETE, 1001), "1 to 1000"),
        (lambda: grids.build("ddim-quadratic", DISCRETE, 1), "at least 2"),
        (lambda: grids.build("ddim-quadratic", DISCRETE, 500), "decrease strictly"),
        (lambda: grids.build("log-linear", DISCRETE, 5, rho_start=1e4), "rho_start"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says):
        call()
